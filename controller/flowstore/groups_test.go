package flowstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/model"
)

func aGroup(name, selector string, nested ...string) *model.Group {
	g := model.MustKind(model.KindGroup).New().(*model.Group)
	g.Metadata.Name, g.Spec.Groups = name, nested
	if selector != "" {
		s, err := model.ParseSelector(selector)
		if err != nil {
			panic(err)
		}
		g.Spec.Selector = &s
	}
	return g
}

// someGroups are groups that share members, nest, go in a circle, and are empty.
func someGroups(context.Context) ([]*model.Group, error) {
	return []*model.Group{
		aGroup("shop", "team=shop"), aGroup("stages", "env!=prod,app"), aGroup("apps", "app in (app-1,app-2)"), aGroup("teamless", "!team"),
		aGroup("nested", "app=app-3", "apps", "circle", "missing"), aGroup("circle", "", "nested"), aGroup("none", "app=nobody"),
	}, nil
}

func TestGroupsOfEnds(t *testing.T) { backends(t, testGroupsOfEnds) }

func testGroupsOfEnds(t *testing.T, open func(*testing.T, Config) *Store) {
	s := open(t, Config{Groups: func(context.Context) ([]*model.Group, error) {
		return []*model.Group{aGroup("front", "app=web"), aGroup("prod", "env=prod"), aGroup("data", "app=db"), aGroup("all", "", "front", "data"), aGroup("labelless", "!env,!app")}, nil
	}})
	world := flow("web", "", 443, 10)
	world.Server.Workload, world.Server.Labels, world.Server.Country, world.Server.AS, world.Server.Organization = "", nil, "NO", 64500, "Example of Bergen"
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: []Flow{flow("web", "db", 5432, 1000), world}})
	type edge struct {
		from, to    string
		connections uint64
	}
	ask := func(where string, by ...string) (out []edge) {
		t.Helper()
		for _, x := range sums(t, s, where, Query{By: by, Order: "bytes"}) {
			out = append(out, edge{x.Key[by[0]], x.Key[by[1]], x.Connections})
		}
		return out
	}
	// Each pair of groups has what was between them: a workload in two is in both.
	want := []edge{{"all", "all", 1}, {"all", "data", 1}, {"all", "prod", 1}, {"front", "all", 1}, {"front", "data", 1}, {"front", "prod", 1}, {"all", "", 1}, {"front", "", 1}}
	if d := cmp.Diff(want, ask("", "client-group", "server-group"), cmp.AllowUnexported(edge{})); d != "" {
		t.Error(d)
	}
	for where, n := range map[string]int{"group=data": 1, "client-group=data": 0, "server-group in (data,prod)": 1, "!server-group": 1, "client-group": 2, "group!=data": 1, "group=labelless": 0, "country=no": 1, "as=64500,server-as=AS64500": 1, "as=6450": 0, "client-country": 0, "server-host=10.0.0.2": 1} {
		if got := sums(t, s, where, Query{By: []string{"server"}}); len(got) != n {
			t.Errorf("%s: %d rows, want %d", where, len(got), n)
		}
		sel, _ := model.ParseSelector(where)
		if list, _, err := s.List(context.Background(), Query{Where: &sel}, Cursor{}); err != nil || len(list) != n {
			t.Errorf("%s: a list of %d, want %d; %v", where, len(list), n, err)
		}
	}
	if got := ask("", "server-country", "server-as"); !cmp.Equal(got, []edge{{"", "", 1}, {"NO", "AS64500 Example of Bergen", 1}}, cmp.AllowUnexported(edge{})) {
		t.Errorf("%v", got)
	}
	list, _, err := s.List(context.Background(), Query{Limit: 1}, Cursor{})
	if err != nil || list[0].Server.Country != "NO" || list[0].Server.AS != 64500 || list[0].Server.Organization != "Example of Bergen" || list[0].Client.Country != "" {
		t.Errorf("%+v, %v", list, err)
	}
	for where, says := range map[string]string{"group=nowhere": "there are all, data, front", "as=Example": "go by their numbers"} {
		sel, _ := model.ParseSelector(where)
		if _, err := s.Sums(context.Background(), Query{Where: &sel}); !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", where, err)
		}
	}
}

// However many groups there are it can be summed up by them; what would make the
// question itself too long is refused.
func TestManyGroups(t *testing.T) { backends(t, testManyGroups) }

func testManyGroups(t *testing.T, open func(*testing.T, Config) *Store) {
	many, selector := 1000, "app in (web,app-%d),env!=stage-%d"
	s := open(t, Config{Groups: func(context.Context) ([]*model.Group, error) {
		var out []*model.Group
		for i := range many {
			out = append(out, aGroup(fmt.Sprintf("group-%d", i), fmt.Sprintf(selector, i, i)))
		}
		return out, nil
	}})
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: []Flow{flow("web", "db", 5432, 1000)}})
	q := Query{By: []string{"client-group", "server-group"}}
	if got := sums(t, s, "client-group in (group-1,group-2),port", q); len(got) != many || got[0].Connections != 1 {
		t.Errorf("%d rows", len(got))
	}
	refused := func(where string, q Query, says string) {
		t.Helper()
		sel, _ := model.ParseSelector(where)
		q.Where = &sel
		if _, err := s.Sums(context.Background(), q); !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", where, err)
		}
	}
	refused("client-group", q, "1000 groups")
	if many = maxGroups; len(sums(t, s, "client-group,!server-group", q)) != many {
		t.Error("as many as may be")
	}
	if many, selector = maxKeys-1, "label-%d!=x,app!=app-%d"; len(sums(t, s, "", Query{By: []string{"client-group"}})) != many {
		t.Error("as many labels as may be")
	}
	many += 1
	refused("port", q, "101 labels")
}

// Rows of which groups make too many are refused.
func TestFoldIsBounded(t *testing.T) {
	q := Query{By: []string{"client-group", "server-group"}}
	for i := range 400 {
		q.groups = append(q.groups, group{fmt.Sprint(i), []model.Selector{{}}})
	}
	a := newAnswer(make([]kind, len(q.By)+len(measures)))
	a.rows, a.texts[0], a.texts[1] = 1, []string{labelEnds}, []string{labelEnds}
	for n := range measures {
		a.numbers[len(q.By)+n] = []uint64{1}
	}
	if _, err := q.fold(context.Background(), a); !errors.Is(err, errTooMuch) {
		t.Error(err)
	}
	q.By[1], a.texts[1][0] = "server", "x"
	if out, err := q.fold(context.Background(), a); err != nil || out.rows != 400 {
		t.Errorf("%v, %v", out, err)
	}
}
