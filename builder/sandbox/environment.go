package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
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
	home, err := homeOf(root, uid)
	return append(out, "HOME="+home), err
}

// homeOf is the directory of a user, / of one who has no entry.
func homeOf(root string, uid int) (string, error) {
	t, err := openTree(root)
	if err != nil {
		return "", err
	}
	defer t.Close()
	passwd, err := t.openRegular("/etc/passwd")
	if errors.Is(err, fs.ErrNotExist) {
		return "/", nil
	}
	if err != nil {
		return "", err
	}
	defer passwd.Close()
	found, err := user.ParsePasswdFilter(&bounded{r: passwd, name: "/etc/passwd", n: maxUserFile}, func(u user.User) bool { return u.Uid == uid })
	if err != nil || len(found) == 0 || found[0].Home == "" {
		return "/", err
	}
	return found[0].Home, nil
}
