package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/user"
)

// completeEnv does to an environment what OCI runtimes do: of a name's values the
// last one counts, and HOME is the user's directory where it isn't set. root is the
// tree with the user's entry.
func completeEnv(root string, env []string, uid int) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	for _, v := range slices.Backward(env) {
		name, _, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("variable %.80q is not NAME=VALUE", v)
		}
		if !seen[name] && v != "HOME=" {
			seen[name] = true
			out = append(out, v)
		}
	}
	slices.Reverse(out)
	if seen["HOME"] {
		return out, nil
	}
	return append(out, "HOME="+homeOf(root, uid)), nil
}

// homeOf is the directory of a user, / of one who has no entry that can be read.
func homeOf(root string, uid int) string {
	t, err := openTree(root)
	if err != nil {
		return "/"
	}
	defer t.Close()
	passwd, err := t.openRegular("/etc/passwd")
	if err != nil {
		return "/"
	}
	defer passwd.Close()
	found, err := user.ParsePasswdFilter(&bounded{r: passwd, name: "/etc/passwd", n: maxUserFile}, func(u user.User) bool { return u.Uid == uid })
	if err != nil || len(found) == 0 || found[0].Home == "" {
		return "/"
	}
	return found[0].Home
}
