package plan

import "weft/model"

// A draft is planned for nobody, but people want to know whom it would find. Its
// selector may ask for labels that tell no identities apart, so it is matched
// against each workload.

func draftKey(p *model.Policy) string { return "draft\x00" + p.Spec.Subject.Selector.String() }

func (s *segments) addDraft(p *model.Policy) {
	key := draftKey(p)
	d := s.drafts[key]
	if d == nil {
		d = &draft{selector: *p.Spec.Subject.Selector, target: &target{key: key}}
		s.drafts[key] = d
		for _, h := range s.hosts {
			for _, m := range h.members {
				if d.selector.Matches(m.Metadata.Labels) {
					d.target.add(h.name, 1)
				}
			}
		}
		s.retarget[d.target] = true
	}
	d.target.users++
}

func (s *segments) dropDraft(p *model.Policy) {
	d := s.drafts[draftKey(p)]
	if d.target.users--; d.target.users == 0 {
		delete(s.drafts, d.target.key)
		delete(s.retarget, d.target)
		s.targets.delete(d.target.key)
	}
}
