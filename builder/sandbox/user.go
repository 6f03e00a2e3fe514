package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/moby/sys/user"
)

// maxUserFile bounds what is read of /etc/passwd and /etc/group, in bytes.
const maxUserFile = 10 << 20

// owner is who a process runs as. groups includes gid.
type owner struct {
	uid, gid uint32
	groups   []uint32
}

// onHost is o as the host sees it, without its other groups.
func (o owner) onHost(ids *idmap.Map) (owner, error) {
	for _, g := range o.groups {
		if _, _, err := ids.Host(int(o.uid), int(g)); err != nil {
			return owner{}, err
		}
	}
	uid, gid, err := ids.Host(int(o.uid), int(o.gid))
	return owner{uid: uint32(uid), gid: uint32(gid)}, err
}

// lookupUser resolves a Spec's User in the tree's /etc/passwd and /etc/group.
// "uid:gid" reads neither of them. An absent file is an empty one.
func lookupUser(t *tree, name string) (owner, error) {
	if o, ok, err := numericOwner(name); ok || err != nil {
		return o, err
	}
	passwd, closePasswd, err := userFile(t, "/etc/passwd")
	if err != nil {
		return owner{}, err
	}
	defer func() { _ = closePasswd() }()
	group, closeGroup, err := userFile(t, "/etc/group")
	if err != nil {
		return owner{}, err
	}
	defer func() { _ = closeGroup() }()
	if name == "" {
		name = "0"
	}
	found, err := user.GetExecUser(name, nil, passwd, group)
	if err != nil {
		return owner{}, fmt.Errorf("user %.80q: %w: give a name that /etc/passwd of the image has and a group that /etc/group has, or numbers", name, err)
	}
	o := owner{uid: uint32(found.Uid), gid: uint32(found.Gid)}
	for _, gid := range found.Sgids {
		o.groups = append(o.groups, uint32(gid))
	}
	if !slices.Contains(o.groups, o.gid) {
		o.groups = append([]uint32{o.gid}, o.groups...)
	}
	return o, nil
}

// numericOwner reads "uid:gid"; ok says that name has that form.
func numericOwner(name string) (o owner, ok bool, err error) {
	first, second, both := strings.Cut(name, ":")
	if !both || !digits(first) || !digits(second) {
		return owner{}, false, nil
	}
	uid, err := numericID(first)
	if err != nil {
		return owner{}, false, err
	}
	gid, err := numericID(second)
	if err != nil {
		return owner{}, false, err
	}
	return owner{uid: uid, gid: gid, groups: []uint32{gid}}, true, nil
}

// numericID parses an id. The highest one means "no change" to the kernel, and what
// does not fit into 32 bits would come out as somebody else.
func numericID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == math.MaxUint32 {
		return 0, fmt.Errorf("user or group id %.40s is not below %d", s, uint32(math.MaxUint32))
	}
	return uint32(id), nil
}

func digits(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

func userFile(t *tree, name string) (r io.Reader, close func() error, err error) {
	f, err := t.openRegular(name)
	if errors.Is(err, fs.ErrNotExist) {
		return strings.NewReader(""), func() error { return nil }, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return &bounded{r: f, name: name, n: maxUserFile}, f.Close, nil
}
