package bridge

import (
	"fmt"

	"github.com/kiln-build/kiln/builder/frontend"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
)

// refPB gives the empty tree an empty id.
func refPB(r *frontend.Ref) *gwpb.Ref {
	if r == nil {
		return &gwpb.Ref{}
	}
	return &gwpb.Ref{Id: r.ID(), Def: r.Definition()}
}

// resultPB puts a result on the wire, for clients that do not know references
// with definitions as bare ids.
func resultPB(res *frontend.Result, definitions bool) (*gwpb.Result, error) {
	out := &gwpb.Result{Metadata: res.Metadata}
	switch {
	case res.Refs != nil && definitions:
		refs := make(map[string]*gwpb.Ref, len(res.Refs))
		for k, r := range res.Refs {
			refs[k] = refPB(r)
		}
		out.Result = &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: refs}}
	case res.Refs != nil:
		ids := make(map[string]string, len(res.Refs))
		for k, r := range res.Refs {
			ids[k] = refPB(r).Id
		}
		out.Result = &gwpb.Result_RefsDeprecated{RefsDeprecated: &gwpb.RefMapDeprecated{Refs: ids}}
	case definitions:
		out.Result = &gwpb.Result_Ref{Ref: refPB(res.Ref)}
	default:
		out.Result = &gwpb.Result_RefDeprecated{RefDeprecated: refPB(res.Ref).Id}
	}
	for k, list := range res.Attestations {
		all := &gwpb.Attestations{}
		for i := range list {
			a, err := gwclient.AttestationToPB(&list[i])
			if err != nil {
				return nil, err
			}
			if list[i].Ref != nil {
				a.Ref = refPB(list[i].Ref)
			}
			all.Attestation = append(all.Attestation, a)
		}
		if out.Attestations == nil {
			out.Attestations = map[string]*gwpb.Attestations{}
		}
		out.Attestations[k] = all
	}
	return out, nil
}

// resultFromPB takes a result that a client returns. Its references must be of
// the same build.
func resultFromPB(in *gwpb.Result, b *frontend.Bridge) (*frontend.Result, error) {
	out := &frontend.Result{Metadata: in.Metadata}
	if err := refsFromPB(in, b, out); err != nil {
		return nil, err
	}
	for k, list := range in.Attestations {
		for _, a := range list.GetAttestation() {
			if a == nil {
				return nil, fmt.Errorf("an attestation of %q is empty", k)
			}
			att, err := gwclient.AttestationFromPB[*frontend.Ref](a)
			if err != nil {
				return nil, err
			}
			if att.Ref, err = known(b, a.Ref.GetId()); err != nil {
				return nil, err
			}
			out.AddAttestation(k, *att)
		}
	}
	return out, nil
}

func refsFromPB(in *gwpb.Result, b *frontend.Bridge, out *frontend.Result) error {
	single, ids := "", map[string]string(nil)
	switch r := in.Result.(type) {
	case *gwpb.Result_RefDeprecated:
		single = r.RefDeprecated
	case *gwpb.Result_Ref:
		single = r.Ref.GetId()
	case *gwpb.Result_RefsDeprecated:
		ids = r.RefsDeprecated.GetRefs()
	case *gwpb.Result_Refs:
		ids = map[string]string{}
		for k, ref := range r.Refs.GetRefs() {
			ids[k] = ref.GetId()
		}
	}
	for k, id := range ids {
		ref, err := known(b, id)
		if err != nil {
			return err
		}
		out.AddRef(k, ref)
	}
	if single == "" {
		return nil
	}
	ref, err := known(b, single)
	out.SetRef(ref)
	return err
}

// known gives the reference with the id; that of the empty tree is nil.
func known(b *frontend.Bridge, id string) (*frontend.Ref, error) {
	if id == "" {
		return nil, nil
	}
	return b.Ref(id)
}
