package bpf

import "fmt"

// Troubles reads what the programs have counted.
func (d *Driver) Troubles() (map[string]uint64, error) {
	var perCPU []policyTrouble
	if err := d.objects.Trouble.Lookup(uint32(0), &perCPU); err != nil {
		return nil, fmt.Errorf("read what went wrong: %w", err)
	}
	var sum policyTrouble
	for _, t := range perCPU {
		sum.TableFull += t.TableFull
		sum.Malformed += t.Malformed
		sum.Fragments += t.Fragments
		sum.NoSteps += t.NoSteps
		sum.PathsFull += t.PathsFull
		sum.NoFrame += t.NoFrame
		sum.LookupsLost += t.LookupsLost
		sum.PastFull += t.PastFull
		sum.HellosLost += t.HellosLost
		sum.RulesFull += t.RulesFull
	}
	sum.RulesFull += d.unkept.Load()
	out := map[string]uint64{}
	for what, n := range map[string]uint64{
		"the connection table is full: packets were judged one by one, and are in no flow":    sum.TableFull,
		"packets whose headers do not parse were dropped":                                     sum.Malformed,
		"fragments without their first were judged without ports":                             sum.Fragments,
		"verdicts that took too many rules were denied":                                       sum.NoSteps,
		"too many executables: those beyond have no number, and rules by process deny them":   sum.PathsFull,
		"packets were dropped for want of room to judge them":                                 sum.NoFrame,
		"answers of resolvers were not read in time: rules by name learn of them at the next": sum.LookupsLost,
		"first bytes of connections were not read in time: their application is not known":    sum.HellosLost,
		"too many rules: what those beyond did is not counted":                                sum.RulesFull,
		"connections whose ports came again too fast: their last figures are in no flow":      sum.PastFull,
	} {
		if n > 0 {
			out[what] = n
		}
	}
	return out, d.guestPorts.troubles(out)
}
