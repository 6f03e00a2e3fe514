package policy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// rule is a rule that was checked.
type rule struct {
	action      spb.PolicyAction
	identifier  string
	kind        spb.MatchType
	pattern     *regexp.Regexp // unless the kind is EXACT
	constraints []constraint
	updates     *spb.Update // of CONVERT
}

// constraint is about one attribute of a source; one that is not set is "".
type constraint struct {
	key, value string
	condition  spb.AttrMatch
	pattern    *regexp.Regexp // of MATCHES
}

// compile checks a policy. Texts of errors are those that BuildKit's clients know.
func compile(p *spb.Policy) ([]rule, error) {
	if p == nil {
		return nil, errors.New("invalid nil policy")
	}
	rules := make([]rule, 0, len(p.Rules))
	for _, from := range p.Rules {
		r, err := compileRule(from)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func compileRule(from *spb.Rule) (r rule, err error) {
	switch {
	case from == nil:
		return r, errors.New("invalid nil rule in policy")
	case from.Selector == nil:
		return r, errors.New("invalid nil selector in policy")
	}
	s := from.Selector
	r = rule{action: from.Action, identifier: s.Identifier, kind: s.MatchType, updates: from.Updates}
	if _, ok := spb.PolicyAction_name[int32(r.action)]; !ok {
		return r, fmt.Errorf("rule %s %s: unknown type", r.action, r.identifier)
	}
	if r.action == spb.PolicyAction_CONVERT && r.updates == nil {
		return r, fmt.Errorf("rule %s %s: missing destination for convert rule", r.action, r.identifier)
	}
	switch r.kind {
	case spb.MatchType_EXACT:
	case spb.MatchType_REGEX:
		r.pattern, err = regexp.Compile(s.Identifier)
	case spb.MatchType_WILDCARD:
		r.pattern, err = wildcard(s.Identifier)
	default:
		err = fmt.Errorf("unknown match type: %s", r.kind)
	}
	if err != nil {
		return r, fmt.Errorf("selector %q: %w", s.Identifier, err)
	}
	r.constraints, err = compileConstraints(s.Constraints)
	return r, err
}

// wildcard makes each * a group that stands for any text.
func wildcard(s string) (*regexp.Regexp, error) {
	if strings.Contains(s, "**") {
		return nil, errors.New(`invalid wildcard: "**"`)
	}
	return regexp.Compile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, "(.*)") + "$")
}

func compileConstraints(all []*spb.AttrConstraint) (out []constraint, err error) {
	for _, from := range all {
		if from == nil {
			return nil, errors.New("invalid nil constraint in policy")
		}
		c := constraint{key: from.Key, value: from.Value, condition: from.Condition}
		switch c.condition {
		case spb.AttrMatch_EQUAL, spb.AttrMatch_NOTEQUAL:
		case spb.AttrMatch_MATCHES:
			if c.pattern, err = regexp.Compile(c.value); err != nil {
				return nil, fmt.Errorf("constraint of attribute %s: %w", c.key, err)
			}
		default:
			return nil, fmt.Errorf("constraint of attribute %s: unknown attr condition: %s", c.key, c.condition)
		}
		out = append(out, c)
	}
	return out, nil
}

// matches tells whether the rule is about src.
func (r *rule) matches(src *pb.SourceOp) bool {
	for _, c := range r.constraints {
		if !c.holds(src.Attrs[c.key]) {
			return false
		}
	}
	return src.Identifier == r.identifier || r.pattern != nil && r.pattern.MatchString(src.Identifier)
}

func (c *constraint) holds(value string) bool {
	switch c.condition {
	case spb.AttrMatch_NOTEQUAL:
		return value != c.value
	case spb.AttrMatch_MATCHES:
		return c.pattern.MatchString(value)
	}
	return value == c.value
}

// convert gives src, which the rule matches, the rule's name and attributes, and
// tells whether it had others. A rule without a name gives that of its selector.
func (r *rule) convert(src *pb.SourceOp) (changed bool) {
	template := r.updates.Identifier
	if template == "" {
		template = r.identifier
	}
	if name := r.expand(src.Identifier, template); name != "" && name != src.Identifier {
		src.Identifier, changed = name, true
	}
	attrs := maps.Clone(src.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	maps.Copy(attrs, r.updates.Attrs)
	if !maps.Equal(attrs, src.Attrs) {
		src.Attrs, changed = attrs, true
	}
	return changed
}

// expand fills in what the groups of the pattern stand for in the name.
func (r *rule) expand(name, template string) string {
	switch r.kind {
	case spb.MatchType_REGEX:
		return r.pattern.ReplaceAllString(name, template)
	case spb.MatchType_WILDCARD:
		groups := r.pattern.FindStringSubmatchIndex(name)
		if groups == nil { // the name is the selector's text
			return name
		}
		return string(r.pattern.ExpandString(nil, template, name, groups))
	}
	return template
}
