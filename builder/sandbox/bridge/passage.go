package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/log"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Accepting a packet in one table doesn't keep another one from dropping it. So the
// chain FORWARD of iptables, whose policy is to drop where Docker runs, gets two
// rules at its beginning, in the form that iptables itself gives to
//
//	-i BRIDGE -j ACCEPT
//	-o BRIDGE -j ACCEPT
//
// What may come in is decided by the table of our own. The old iptables, which has
// no nftables below it, can't be reached without its program.

var (
	iptables        = &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}
	iptablesForward = &nftables.Chain{Name: "FORWARD", Table: iptables}
	// comment tells our rules from those of others, and who lists them whose they are.
	comment = userdata.AppendString(nil, userdata.TypeComment, "bridge of kilnd")
)

// passages are the conditions of the two rules.
func (t *table) passages() [][]expr.Any { return [][]expr.Any{from(t.name), to(t.name)} }

// makePassage adds the rules that are missing, where there is such a chain.
func (t *table) makePassage() error {
	rules, err := t.conn.GetRules(iptables, iptablesForward)
	if err != nil {
		return ignoreMissing(err)
	}
	var missing bool
	for _, condition := range t.passages() {
		if slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return isPassage(r, condition) }) {
			continue
		}
		missing = true
		t.conn.InsertRule(&nftables.Rule{
			Table: iptables, Chain: iptablesForward,
			Exprs:    append(slices.Clone(condition), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}),
			UserData: comment,
		})
	}
	if !missing {
		return nil
	}
	return ignoreMissing(t.conn.Flush())
}

// removePassage removes the rules.
func (t *table) removePassage() error {
	rules, err := t.conn.GetRules(iptables, iptablesForward)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, r := range rules {
		if slices.ContainsFunc(t.passages(), func(condition []expr.Any) bool { return isPassage(r, condition) }) {
			if err := t.conn.DelRule(r); err != nil {
				return fmt.Errorf("rule of iptables: %w", err)
			}
		}
	}
	return ignoreMissing(t.conn.Flush())
}

// isPassage tells whether a rule is ours, with this condition.
func isPassage(r *nftables.Rule, condition []expr.Any) bool {
	if len(r.Exprs) < 2 || !bytes.Equal(r.UserData, comment) {
		return false
	}
	meta, ok1 := r.Exprs[0].(*expr.Meta)
	cmp, ok2 := r.Exprs[1].(*expr.Cmp)
	return ok1 && ok2 && meta.Key == condition[0].(*expr.Meta).Key && bytes.Equal(cmp.Data, condition[1].(*expr.Cmp).Data)
}

func ignoreMissing(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("chain FORWARD of iptables: %w", err)
}

// warnOfOthers tells about firewalls that may drop what is sent on the bridge.
func (t *table) warnOfOthers(ctx context.Context) {
	chains, err := t.conn.ListChains()
	if err != nil {
		log.G(ctx).WithError(err).Debug("the host's firewalls are unknown")
		return
	}
	for _, c := range chains {
		known := c.Table.Name == iptables.Name && c.Table.Family == iptables.Family && c.Name == iptablesForward.Name
		forwards := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Table.Family != nftables.TableFamilyBridge
		if !known && forwards && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			log.G(ctx).Warnf("chain %s in table %s of the host's firewall drops what it doesn't know: if steps reach nothing, let it accept iifname %s and oifname %s", c.Name, c.Table.Name, t.name, t.name)
		}
	}
	// The names of tables of the iptables that came before nftables.
	if old, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && slices.Contains(strings.Fields(string(old)), iptables.Name) {
		log.G(ctx).Warnf("the host has rules of iptables-legacy: if steps reach nothing, let its chain FORWARD accept -i %s and -o %s", t.name, t.name)
	}
}
