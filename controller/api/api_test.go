package api_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/controller/api"
	"weft/controller/api/apitest"
	"weft/internal/golden"
	"weft/model"
)

type client struct {
	t     *testing.T
	h     http.Handler
	token string
}

func start(t *testing.T) (*apitest.Server, client) {
	t.Helper()
	s, err := apitest.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for name, labels := range map[string]string{"web-1": "os.id=debian", "web-1:front": "app=web", "web-2": "app=web", "ids": "role=ids", "ids:probe": "role=probe"} {
		if err := s.World.Add(name, labels); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []string{"web-1", "web-2", "ids"} {
		if err := s.World.Join(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	return s, client{t, s.API.Handler(), s.Token}
}

func (c client) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	r := httptest.NewRequestWithContext(c.t.Context(), method, path, strings.NewReader(body))
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, r)
	return w
}

// want does a request, checks its status and decodes the answer.
func (c client) want(status int, method, path, body string, headers ...string) map[string]any {
	c.t.Helper()
	w := c.do(method, path, body, headers...)
	if w.Code != status {
		c.t.Fatalf("%s %s: %d, want %d: %s", method, path, w.Code, status, w.Body)
	}
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		c.t.Fatalf("%s %s: %v: %s", method, path, err, w.Body)
	}
	return v
}

func dig(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

const tapBody = `{"apiVersion":"weft/v1","kind":"Tap","metadata":{"name":"t1"},"spec":{"from":{"selector":"app=web"},"to":{"selector":"role=ids"}}}`

func TestLifeOfATap(t *testing.T) {
	_, c := start(t)
	v := c.want(201, "POST", "/api/v1/taps", tapBody)
	if dig(v, "status", "state") != "Active" || dig(v, "metadata", "generation") != 1.0 || dig(v, "metadata", "uid") == nil {
		t.Errorf("created: %v", v)
	}
	version := dig(v, "metadata", "resourceVersion").(string)
	c.want(409, "POST", "/api/v1/taps", tapBody)

	w := c.do("GET", "/api/v1/taps/t1", "")
	if w.Header().Get("ETag") != `"`+version+`"` {
		t.Errorf("ETag %s, version %s", w.Header().Get("ETag"), version)
	}
	// The very same again writes nothing.
	if v = c.want(200, "PUT", "/api/v1/taps/t1", tapBody); dig(v, "metadata", "resourceVersion") != version {
		t.Errorf("unchanged, but at %v", dig(v, "metadata", "resourceVersion"))
	}
	// Labels change the version, not the generation; status and identity are not the writer's.
	labelled := strings.Replace(tapBody, `"name":"t1"`, `"name":"t1","labels":{"a":"b"},"uid":"mine","generation":99`, 1)
	labelled = strings.Replace(labelled, `"spec"`, `"status":{"state":"Error"},"spec"`, 1)
	v = c.want(200, "PUT", "/api/v1/taps/t1", labelled)
	if dig(v, "metadata", "generation") != 1.0 || dig(v, "metadata", "resourceVersion") == version || dig(v, "metadata", "uid") == "mine" || dig(v, "status", "state") != "Active" {
		t.Errorf("labelled: %v", v)
	}
	stale := strings.Replace(tapBody, `"name":"t1"`, `"name":"t1","resourceVersion":"`+version+`"`, 1)
	p := c.want(409, "PUT", "/api/v1/taps/t1", stale)
	if !strings.Contains(p["detail"].(string), "get it again and repeat the change") {
		t.Errorf("stale: %v", p)
	}
	c.want(409, "PUT", "/api/v1/taps/t1", tapBody, "If-Match", `"`+version+`"`)
	sliced := strings.Replace(tapBody, `"to":`, `"snaplen":128,"to":`, 1)
	if v = c.want(200, "PUT", "/api/v1/taps/t1?dryRun=true", sliced); dig(v, "spec", "snaplen") != 128.0 || dig(v, "metadata", "generation") != 2.0 {
		t.Errorf("dry run: %v", v)
	}
	if v = c.want(200, "GET", "/api/v1/taps/t1", ""); dig(v, "spec", "snaplen") != nil {
		t.Error("a dry run wrote")
	}
	if v = c.want(200, "PUT", "/api/v1/taps/t1", sliced); dig(v, "metadata", "generation") != 2.0 {
		t.Errorf("generation: %v", v)
	}
	c.want(409, "DELETE", "/api/v1/taps/t1?resourceVersion="+version, "")
	c.want(200, "DELETE", "/api/v1/taps/t1?dryRun=true", "")
	c.want(200, "DELETE", "/api/v1/taps/t1", "")
	c.want(404, "DELETE", "/api/v1/taps/t1", "")
	c.want(404, "PUT", "/api/v1/taps/t1", tapBody)

	var verbs []string
	for _, e := range c.want(200, "GET", "/api/v1/audit?limit=4", "")["items"].([]any) {
		if dig(e, "object") == "tap/t1" && dig(e, "actor") == "token/admin" {
			verbs = append(verbs, dig(e, "verb").(string))
		}
	}
	if got := strings.Join(verbs, " "); got != "delete update update create" {
		t.Errorf("audit: %s", got)
	}
}

func TestEveryFaultAtOnce(t *testing.T) {
	_, c := start(t)
	p := c.want(422, "POST", "/api/v1/taps", `{"apiVersion":"weft/v1","kind":"Tap","metadata":{"name":"T1"},"spec":{"from":{"selector":"app=web,"},"too":{},"snaplen":"9"}}`)
	var got []string
	for _, e := range p["errors"].([]any) {
		got = append(got, dig(e, "field").(string))
	}
	if diff := cmp.Diff([]string{"spec.from.selector", "spec.snaplen", "spec.too", "metadata.name", "spec.to"}, got); diff != "" {
		t.Error(diff)
	}
	for name, c2 := range map[string]struct {
		status       int
		method, path string
		body, want   string
	}{
		"filter":        {422, "POST", "/api/v1/taps", strings.Replace(tapBody, `"to":`, `"filter":"tcp prot 80","to":`, 1), `"field":"spec.filter"`},
		"other kind":    {422, "POST", "/api/v1/groups", tapBody, "this path takes Group"},
		"rename":        {422, "PUT", "/api/v1/taps/other", tapBody, "cannot be renamed"},
		"no JSON":       {422, "POST", "/api/v1/taps", "kind: Tap", "is no JSON"},
		"two values":    {422, "POST", "/api/v1/taps", tapBody + tapBody, "one resource at a time"},
		"selector":      {400, "GET", "/api/v1/taps?labelSelector=a%3D,", "", "query.labelSelector"},
		"parameter":     {422, "GET", "/api/v1/taps?labelselector=a", "", "unknown query parameter"},
		"path":          {404, "GET", "/api/v1/tabs", "", "/docs shows"},
		"name":          {404, "GET", "/api/v1/taps/UPPER", "", "lower-case"},
		"workload":      {404, "POST", "/api/v1/workloads", "{}", "there is no POST"},
		"host":          {404, "POST", "/api/v1/hosts", "{}", "there is no POST"},
		"unjoined host": {404, "PUT", "/api/v1/hosts/new", `{"apiVersion":"weft/v1","kind":"Host","metadata":{"name":"new"}}`, "weft token create"},
		"too large":     {413, "POST", "/api/v1/taps", strings.Repeat(" ", api.MaxBody+1), "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			w := c.do(c2.method, c2.path, c2.body)
			if w.Code != c2.status || !strings.Contains(w.Body.String(), c2.want) || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d %s: %s, want %d and ...%s...", w.Code, w.Header().Get("Content-Type"), w.Body, c2.status, c2.want)
			}
		})
	}
}

func TestGroupsNestWithoutCircles(t *testing.T) {
	_, c := start(t)
	group := func(name, spec string) string {
		return `{"apiVersion":"weft/v1","kind":"Group","metadata":{"name":"` + name + `"},"spec":` + spec + `}`
	}
	c.want(201, "POST", "/api/v1/groups", group("web", `{"selector":"app=web"}`))
	v := c.want(201, "POST", "/api/v1/groups", group("all", `{"groups":["web"],"selector":"role=ids"}`))
	if dig(v, "status", "members") != 3.0 || dig(v, "status", "hosts") != 3.0 {
		t.Errorf("status: %v", v)
	}
	p := c.want(422, "PUT", "/api/v1/groups/web", group("web", `{"groups":["all"]}`))
	if !strings.Contains(p["errors"].([]any)[0].(map[string]any)["message"].(string), "web -> all -> web") {
		t.Errorf("circle: %v", p)
	}
	p = c.want(409, "DELETE", "/api/v1/groups/web", "")
	if !strings.Contains(p["detail"].(string), "used by group/all") {
		t.Errorf("in use: %v", p)
	}
	if n := len(c.want(200, "GET", "/api/v1/groups/all/members", "")["items"].([]any)); n != 3 {
		t.Errorf("%d members", n)
	}
	w := c.do("POST", "/api/v1/groups", group("typo", `{"groups":["wep"]}`))
	if w.Code != 201 || !strings.Contains(w.Header().Get("Warning"), `no group \"wep\"`) {
		t.Errorf("%d, warning %s", w.Code, w.Header().Get("Warning"))
	}
	v = c.want(200, "POST", "/api/v1/preview/groups", group("preview", `{"selector":"app=web"}`))
	if len(v["members"].([]any)) != 2 || v["hosts"] != 2.0 {
		t.Errorf("preview: %v", v)
	}
}

func TestTapPreviewWarns(t *testing.T) {
	s, c := start(t)
	s.World.SetOffline("ids", time.Now().Add(-time.Hour))
	tap := func(from, to string) string {
		return `{"apiVersion":"weft/v1","kind":"Tap","metadata":{"name":"p"},"spec":{"from":{"selector":"` + from + `"},"to":{"selector":"` + to + `"}}}`
	}
	for name, c2 := range map[string]struct {
		body, want     string
		sources, tools int
	}{
		"nothing matches": {tap("app=wep", "role=ids"), `"app=wep" matches no workload now`, 0, 1},
		"no tool":         {tap("app=web", "role=none"), "so nothing is delivered", 2, 0},
		"offline":         {tap("app=web", "role=ids"), "tool ids is offline since", 2, 1},
		"no host":         {tap("app=web", "role=probe"), "no hosts and cannot be tools: ids:probe", 2, 0},
		"both":            {tap("*", "role=ids"), "ids is both tapped and a tool", 5, 1},
	} {
		t.Run(name, func(t *testing.T) {
			v := c.want(200, "POST", "/api/v1/preview/taps", c2.body)
			text, _ := json.Marshal(v["warnings"])
			if !strings.Contains(strings.ReplaceAll(string(text), `\"`, `"`), c2.want) || len(v["sources"].([]any)) != c2.sources || len(v["tools"].([]any)) != c2.tools {
				t.Errorf("got %v", v)
			}
		})
	}
}

func TestHostsKeepWhatJoiningGaveThem(t *testing.T) {
	_, c := start(t)
	v := c.want(200, "PUT", "/api/v1/hosts/web-1", `{"apiVersion":"weft/v1","kind":"Host","metadata":{"name":"web-1","annotations":{"weft/join-token":"forged","note":"x"}},"spec":{"labels":{"app":"web"}}}`)
	if dig(v, "metadata", "annotations", "weft/join-token") != "lab" || dig(v, "metadata", "annotations", "note") != "x" || dig(v, "status", "state") != "Online" {
		t.Errorf("got %v", v)
	}
	if n := len(c.want(200, "GET", "/api/v1/hosts?labelSelector=app%3Dweb", "")["items"].([]any)); n != 2 {
		t.Errorf("%d hosts found by labels of spec and status, want 2", n)
	}
	revoke := `{"apiVersion":"weft/v1","kind":"Host","metadata":{"name":"web-1"},"spec":{"revoked":true}}`
	if v := c.want(200, "PUT", "/api/v1/hosts/web-1", revoke); dig(v, "status", "state") != "Revoked" {
		t.Errorf("got %v", v)
	}
	c.want(422, "PUT", "/api/v1/hosts/web-1", strings.Replace(revoke, "true", "false", 1))
}

func TestTokensAreShownOnce(t *testing.T) {
	s, c := start(t)
	v := c.want(201, "POST", "/api/v1/jointokens", `{"apiVersion":"weft/v1","kind":"JoinToken","metadata":{"name":"j"},"spec":{"uses":3,"ttl":"5m"}}`)
	secret, _ := dig(v, "status", "token").(string)
	if !strings.HasPrefix(secret, "weft-join.j~") || dig(v, "status", "expires") == nil {
		t.Fatalf("got %v", v)
	}
	for _, path := range []string{"/api/v1/jointokens/j", "/api/v1/jointokens", "/api/v1/audit"} {
		if w := c.do("GET", path, ""); w.Code != 200 || strings.Contains(w.Body.String(), "~") {
			t.Errorf("%s shows a secret: %s", path, w.Body)
		}
	}
	if hash, err := s.Store.Secret(t.Context(), model.KindJoinToken, "j"); err != nil || strings.Contains(string(hash), secret) {
		t.Errorf("stored %q, %v", hash, err)
	}
	c.want(422, "PUT", "/api/v1/jointokens/j", `{"apiVersion":"weft/v1","kind":"JoinToken","metadata":{"name":"j"},"spec":{"uses":300}}`)
	if v := c.want(201, "POST", "/api/v1/jointokens?dryRun=true", `{"apiVersion":"weft/v1","kind":"JoinToken","metadata":{"name":"k"}}`); dig(v, "status", "token") != nil {
		t.Errorf("a dry run made a token: %v", v)
	}
}

func TestWatchReportsStoreAndStatus(t *testing.T) {
	s, c := start(t)
	srv := httptest.NewServer(c.h)
	defer srv.Close()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/api/v1/watch/taps?labelSelector=!hide", nil)
	r.Header.Set("Authorization", "Bearer "+s.Token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func(typ string) map[string]any {
		t.Helper()
		for lines.Scan() {
			var v map[string]any
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				t.Fatal(err)
			}
			if v["type"] == "HEARTBEAT" {
				continue
			}
			if v["type"] != typ {
				t.Fatalf("got %s, want %s", lines.Text(), typ)
			}
			return v
		}
		t.Fatalf("the watch ended before %s: %v", typ, lines.Err())
		return nil
	}
	next("SYNCED")
	c.want(201, "POST", "/api/v1/taps", tapBody)
	if v := next("ADDED"); dig(v, "object", "metadata", "name") != "t1" {
		t.Errorf("got %v", v)
	}
	s.World.SetLedger(model.Ledger{Seen: model.Count{Packets: 7, Bytes: 700}, Delivered: model.Count{Packets: 7, Bytes: 700}})
	if v := next("MODIFIED"); dig(v, "object", "status", "ledger", "seen", "packets") != 14.0 {
		t.Errorf("got %v", v)
	}
	c.want(200, "PUT", "/api/v1/taps/t1", strings.Replace(tapBody, `"name":"t1"`, `"name":"t1","labels":{"hide":"1"}`, 1))
	next("DELETED")
}

func TestPagesAreOpenAndSelfContained(t *testing.T) {
	_, c := start(t)
	c.token = ""
	for path, want := range map[string]string{"/healthz": "ok", "/docs": "weft API", "/openapi.json": `"/api/v1/taps/{name}"`, "/openapi.yaml": "/api/v1/taps/{name}:"} {
		if w := c.do("GET", path, ""); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %.200s", path, w.Code, w.Body)
		}
	}
	if page := c.do("GET", "/docs", "").Body.String(); strings.Contains(page, "http://") || strings.Contains(page, "https://") {
		t.Error("the page fetches from elsewhere")
	}
}

// The description is committed, so that a change of the API is seen in review.
func TestOpenAPIFileIsCurrent(t *testing.T) {
	_, c := start(t)
	golden.Equal(t, "../../../docs/reference/openapi.yaml", c.do("GET", "/openapi.yaml", "").Body.String())
}

// What no host could hold is refused by a dry run too.
func TestAPolicyThatNoHostCanHold(t *testing.T) {
	_, c := start(t)
	rules := strings.Repeat(`{"action":"Log"},`, 65)
	body := `{"apiVersion":"weft/v1","kind":"Policy","metadata":{"name":"deep"},"spec":{"stage":"Active","subject":{"selector":"app=web"},"ingress":[` + rules[:len(rules)-1] + `]}}`
	for _, query := range []string{"?dryRun=true", "", "?force=true"} {
		v := c.want(409, "POST", "/api/v1/policies"+query, body)
		if text, _ := v["detail"].(string); !strings.Contains(text, "could not hold policy/deep: up to 65 rules could be tried") {
			t.Errorf("%s: %s", query, text)
		}
	}
	c.want(404, "GET", "/api/v1/policies/deep", "")
}
