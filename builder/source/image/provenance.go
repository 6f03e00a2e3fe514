package image

import (
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/labels"
)

// Content that is here already may be used without asking a repository only if
// that repository has given it before; otherwise a digest would open what the
// repository's owner keeps from us. containerd notes the repositories that a
// blob came from in a label for each host, without the port, so hosts with a
// port get labels of their own.

func sourceLabels(r ref) (containerds, ours string) {
	host, _, hasPort := strings.Cut(r.Host, ":")
	containerds = labels.LabelDistributionSource + "." + host
	if hasPort {
		ours = "kiln.build/source." + r.Host
	}
	return containerds, ours
}

// gave says whether the labels tell that the repository has given the blob.
func gave(r ref, had map[string]string) bool {
	key, ours := sourceLabels(r)
	if ours != "" {
		key = ours
	}
	return slices.Contains(strings.Split(had[key], ","), r.Repo)
}

// labels notes the repository beside those that the blob came from before.
func (r *registryRemote) labels(had map[string]string) map[string]string {
	out := map[string]string{}
	theirs, ours := sourceLabels(r.ref)
	for _, key := range []string{theirs, ours} {
		if key == "" {
			continue
		}
		value := r.ref.Repo
		if repos := strings.Split(had[key], ","); had[key] != "" {
			if slices.Contains(repos, value) {
				continue
			}
			repos = append(repos, value)
			slices.Sort(repos)
			value = strings.Join(repos, ",")
		}
		if labels.Validate(key, value) == nil { // common layers come from very many
			out[key] = value
		}
	}
	return out
}
