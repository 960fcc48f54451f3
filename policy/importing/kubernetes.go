package importing

import "weft/model"

// Where Kubernetes' steps stand: Admin, NetworkPolicy, Baseline, and what is
// left is allowed.
const (
	adminTier         = model.TierPlatform
	networkPolicyTier = model.TierApplication
	baselineTier      = model.TierBaseline
	firstRung         = 1000
)

// kubernetes reads NetworkPolicies and the cluster's own policies together, since
// what one leaves open the next decides.
func (r *run) kubernetes(objects []cursor) {
	k, rest := clusterOf(objects)
	var admin, baseline []clusterPolicy
	some := false
	for _, c := range rest {
		switch kind := c.get("kind").text(); {
		case c.group() == "networking.k8s.io" && kind == "NetworkPolicy":
			r.networkPolicy(k, c)
		case c.group() == "policy.networking.k8s.io" && (kind == "ClusterNetworkPolicy" || kind == "AdminNetworkPolicy" || kind == "BaselineAdminNetworkPolicy"):
			if p := r.clusterPolicy(k, c); p.baseline {
				baseline = append(baseline, p)
			} else {
				admin = append(admin, p)
			}
		default:
			c.notRead()
			continue
		}
		some = true
	}
	r.clusterLadder(adminTier, admin)
	r.clusterLadder(baselineTier, baseline)
	if some {
		r.allowOtherPods(rest[0])
	}
}

// allowOtherPods says what Kubernetes does with a pod no policy is for.
func (r *run) allowOtherPods(first cursor) {
	rest := []model.PolicyRule{{Name: "no-policy", Action: model.ActionAllow}}
	r.add(draft{name: "k8s-default", origin: origin{first.file, first.line, "pods no policy is for"}, tier: model.TierDefault, priority: lastPriority,
		subjects: []model.Selector{selector(exists(namespaceLabel))}, ingress: rest, egress: rest})
}

func (c cursor) origin() origin { return origin{c.file, c.line, c.object} }

// cannot reports that this place cannot be said in a rule with the action.
func (c cursor) cannot(action model.Action, means string) {
	switch action {
	case model.ActionAllow:
		c.find(Closes, means, "it is left out; nothing is allowed by it")
	case model.ActionLog:
		c.find(Same, means, "the rule logs without regard to it")
	default:
		c.find(Closes, means, "the rule denies without regard to it")
	}
}
