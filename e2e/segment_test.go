package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/lab"
	"weft/model"
)

// What the three-tier example's README does, while customers are served all the
// time: not one of their requests may fail.
func TestThreeTiers(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.controller()
	s.agents("web", "app")
	customers := s.helper("visitors", "visitors", s.lab.Host("client"), "http://web")
	app := s.lab.Host("app")
	cron, api := app.Container("cron"), app.Container("api")
	if !s.calls(cron, "db", 5432) {
		t.Fatal("without any policy the neighbour does not reach the database")
	}

	// Observe, propose, stage, enforce.
	s.applied(example(t, "observe.yaml"))
	staged := s.proposal()
	s.applied(staged)
	s.policiesAre(model.PolicyStaged)
	active := strings.ReplaceAll(staged, "stage: Staged", "stage: Active")
	files := filepath.Join(s.dir, "enforced.yaml")
	s.write(files, active+"---\n"+example(t, "enforce.yaml"), 0o644)
	says(t, "replay of what was seen", s.weft("policy", "replay", "-f", files).stdout, "newly denied:  0")
	s.applied(active)
	s.policiesAre(model.PolicyActive)
	s.applied(example(t, "enforce.yaml"))
	s.denied("from a neighbour on the same machine", cron, "db", 5432)
	s.denied("to another port of the database", api, "db", 22)
	says(t, "explain", s.ok("explain", "app:cron", "app:db", "tcp/5432"), "Deny", "shop")

	// Another program in the allowed container: until a policy names the program,
	// it is let through.
	psql := filepath.Join(testreq.PostgreSQLBin(), "psql")
	ask := func() error {
		cmd := api.Command(s.ctx, psql, "-h", "db", "-U", "postgres", "-Atc", "SELECT 42")
		cmd.Env = []string{"PGCONNECT_TIMEOUT=2", "PATH=/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := ask(); err != nil {
		t.Errorf("psql beside the API, while no policy names programs: %v", err)
	}
	s.applied(s.policies())
	for _, group := range []string{"web", "api", "db"} {
		s.ok("delete", "policy", "proposed-shop-"+group)
	}
	s.policiesAre(model.PolicyActive)
	if err := ask(); err == nil {
		t.Error("psql beside the API reaches the database, though the policy names the API's program")
	}
	says(t, "explain of the other program", s.ok("explain", "app:api", "app:db", "tcp/5432", "--process", psql), "Deny", s.api)

	var denies string
	s.wait(5*time.Second, "both are among what was turned down", func() error {
		denies = s.ok("policy", "denies")
		for _, want := range []string{"app:cron", "app:api"} {
			if !hasLine(denies, want, "->", "app:db", "tcp/5432") {
				return fmt.Errorf("%s is not in\n%s", want, denies)
			}
		}
		return nil
	})
	t.Logf("weft policy denies:\n%s", denies)

	// What nobody confirms is taken back.
	r := s.weftIn(openToCron, "apply", "--confirm", "3s", "-f", "-")
	if r.err != nil {
		t.Fatalf("apply --confirm: %s", r.stderr)
	}
	s.wait(2500*time.Millisecond, "what was applied for three seconds is in force", func() error {
		if !s.calls(cron, "db", 5432) {
			return fmt.Errorf("the neighbour does not reach the database")
		}
		return nil
	})
	s.wait(8*time.Second, "it is rolled back", func() error {
		if s.calls(cron, "db", 5432) {
			return fmt.Errorf("the neighbour still reaches the database")
		}
		return nil
	})

	// The example's own table, against the programs that listen.
	if r := s.weft("lab", "matrix", "-l", s.lab.ID, filepath.Join("..", "examples", "three-tier", "reach.table")); r.err != nil {
		t.Errorf("matrix: %v\n%s%s", r.err, r.stdout, r.stderr)
	}

	customers.end()
	var served figures
	if err := json.Unmarshal([]byte(customers.text()), &served); err != nil {
		t.Fatalf("read what the customers counted: %v: %s", err, customers.text())
	}
	if served.Failed > 0 || served.Requests < 100 {
		t.Errorf("%d of %d requests failed, the first at %s", served.Failed, served.Requests, served.FirstError)
	}
	t.Logf("%d requests, %d failed, the longest took %s", served.Requests, served.Failed, served.Longest.Round(time.Millisecond))
}

const openToCron = `apiVersion: weft/v1
kind: Policy
metadata: {name: open-to-cron}
spec:
  tier: Security
  stage: Active
  subject: {selector: "app=shop,tier in (cron,db)"}
  ingress:
  - {name: from-cron, action: Allow, from: [{selector: "tier=cron"}], ports: [{protocol: TCP, port: 5432}]}
  egress:
  - {name: to-db, action: Allow, to: [{selector: "tier=db"}], ports: [{protocol: TCP, port: 5432}]}
`

// proposal waits until everything the shop does has been seen, and returns what is
// proposed for it.
func (s *shop) proposal() string {
	s.t.Helper()
	var texts []string
	s.wait(30*time.Second, "all that the shop does is in the proposal", func() error {
		texts = nil
		for group, ports := range map[string][]string{"shop-web": {"port: 80\n", "port: 8080\n"}, "shop-api": {"port: 8080\n", "port: 5432\n"}, "shop-db": {"port: 5432\n"}} {
			r := s.weft("policy", "propose", "--group", group)
			for _, p := range ports {
				if !strings.Contains(r.stdout, p) {
					return fmt.Errorf("%s lacks %s:\n%s%s", group, p, r.stdout, r.stderr)
				}
			}
			texts = append(texts, r.stdout)
		}
		return nil
	})
	return strings.Join(texts, "---\n")
}

// policiesAre waits until all policies are in a state on every host.
func (s *shop) policiesAre(state model.PolicyState) {
	s.t.Helper()
	s.wait(20*time.Second, "policies are "+string(state), func() error {
		var list []model.Policy
		if err := s.get(&list, "policies"); err != nil {
			return err
		}
		for _, p := range list {
			if p.Status.State != state || p.Status.Applied != p.Status.Targeted {
				return fmt.Errorf("%s is %s on %d of %d hosts: %s", p.Metadata.Name, p.Status.State, p.Status.Applied, p.Status.Targeted, p.Status.Message)
			}
		}
		return nil
	})
}

// calls says whether a TCP port can be reached.
func (f *fleet) calls(from lab.Runner, to string, port int) bool {
	return from.Command(f.ctx, "nc", "-z", "-w", "1", to, fmt.Sprint(port)).Run() == nil
}

// denied waits for a call to be turned down.
func (s *shop) denied(what string, from lab.Runner, to string, port int) {
	s.t.Helper()
	s.wait(10*time.Second, what+" no call passes", func() error {
		if s.calls(from, to, port) {
			return fmt.Errorf("it passes")
		}
		return nil
	})
}

// hasLine says whether some line of a text holds all the words.
func hasLine(text string, words ...string) bool {
	for line := range strings.Lines(text) {
		fits := true
		for _, w := range words {
			fits = fits && strings.Contains(line, w)
		}
		if fits {
			return true
		}
	}
	return false
}
