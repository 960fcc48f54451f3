package api

import (
	"context"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/access"
	"weft/internal/version"
	"weft/model"
)

// pointer is *T where that is a resource.
type pointer[T any] interface {
	*T
	model.Resource
}

// List is the answer to a list.
type List[T any] struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   ListMeta `json:"metadata"`
	Items      []T      `json:"items" nullable:"false"`
}

// ListMeta says when a list was true.
type ListMeta struct {
	ResourceVersion string `json:"resourceVersion,omitempty" doc:"The store's revision the list was read at."`
}

type listInput struct {
	Selector string `query:"labelSelector" doc:"Only what this selector matches." example:"app=web,env in (prod,stage)"`
}

type nameInput struct {
	Name string `path:"name"`
}

type writeInput struct {
	DryRun       bool   `query:"dryRun" doc:"Check everything and answer as if it were done, but write nothing."`
	Force        bool   `query:"force" doc:"Write although it would cut agents off from the controller."`
	Confirmation string `query:"confirmation" doc:"The confirmation this write belongs to."`
	RawBody      []byte
}

type replaceInput struct {
	Name         string `path:"name"`
	DryRun       bool   `query:"dryRun" doc:"Check everything and answer as if it were done, but write nothing."`
	Force        bool   `query:"force" doc:"Write although it would cut agents off from the controller."`
	Confirmation string `query:"confirmation" doc:"The confirmation this write belongs to."`
	RawBody      []byte
	IfMatch      string `header:"If-Match" doc:"The resourceVersion (ETag) that must still be the present one."`
}

type deleteInput struct {
	Name            string `path:"name"`
	DryRun          bool   `query:"dryRun"`
	Force           bool   `query:"force" doc:"Delete although it would cut agents off from the controller."`
	ResourceVersion string `query:"resourceVersion" doc:"The version that must still be the present one."`
}

// writing is how a write is to be done.
type writing struct {
	dryRun, force bool
	confirmation  string
}

type listOutput[T any] struct {
	ETag string `header:"ETag"`
	Body List[T]
}

type oneOutput[T any] struct {
	ETag     string   `header:"ETag" doc:"The resourceVersion, in quotes."`
	Warnings []string `header:"Warning" doc:"What is allowed but probably not meant (RFC 7234, code 299)."`
	Body     T
}

type output[T any] struct{ Body T }

// Version is what the controller is.
type Version struct {
	Version string `json:"version"`
	API     string `json:"api" doc:"The version of the resources, weft/v1."`
}

func (a *API) register() {
	registerKind[model.Host](a)
	registerKind[model.Workload](a)
	registerKind[model.Alert](a)
	registerKind[model.AlertRule](a)
	registerKind[model.Probe](a)
	registerKind[model.Group](a)
	registerKind[model.Policy](a)
	registerKind[model.Tap](a)
	registerKind[model.Relay](a)
	registerKind[model.JoinToken](a)
	registerKind[model.FlowQuery](a)
	registerKind[model.AccessToken](a)
	a.registerMembers()
	a.registerPreviews()
	a.registerExplain()
	a.registerWhatIf()
	a.registerConversations()
	a.registerFlows()
	a.registerFlowImport()
	a.registerFlowEntries()
	a.registerSamples()
	a.registerCapture()
	a.registerProbeRun()
	a.registerAlertHistory()
	a.registerProposal()
	a.registerConfirmations()
	a.registerAudit()
	handle(a, huma.Operation{OperationID: "version", Method: http.MethodGet, Path: "/api/v1/version", Tags: []string{"Controller"}, Summary: "The controller's version"},
		func(context.Context, *struct{}) (*output[Version], error) {
			return &output[Version]{Version{version.Version, model.APIVersion}}, nil
		})
	handle(a, huma.Operation{OperationID: "whoami", Method: http.MethodGet, Path: "/api/v1/whoami", Tags: []string{"Controller"}, Summary: "Who the caller is"},
		func(ctx context.Context, _ *struct{}) (*output[access.User], error) {
			return &output[access.User]{callerOf(ctx).User}, nil
		})
}

// handle registers one operation, with problems as its other answers.
func handle[I, O any](a *API, op huma.Operation, f func(context.Context, *I) (*O, error)) {
	op.Responses = problemResponses(a.huma.OpenAPI().Components.Schemas)
	op.MaxBodyBytes, op.BodyReadTimeout = MaxBody, bodyTimeout
	op.SkipValidateBody = true
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		return out, a.asProblem(err)
	})
}

// describeBody says what a raw body holds: our own strict decoder reads it.
func describeBody[T any](a *API, op *huma.Operation) {
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")},
	}}
}

func registerKind[T any, P pointer[T]](a *API) {
	info := model.MustKind(model.Kind(reflect.TypeFor[T]().Name()))
	one, many := string(info.Kind), info.Plural
	path := "/api/v1/" + many
	tags := []string{one}
	handle(a, huma.Operation{OperationID: "list" + plural(one), Method: http.MethodGet, Path: path, Tags: tags, Summary: "List " + many},
		func(ctx context.Context, in *listInput) (*listOutput[T], error) {
			sel, err := parseSelector("labelSelector", in.Selector)
			if err != nil {
				return nil, err
			}
			items, rev, err := a.list(ctx, info, sel)
			if err != nil {
				return nil, err
			}
			out := &listOutput[T]{ETag: etag(rev)}
			out.Body = List[T]{APIVersion: model.APIVersion, Kind: one + "List", Metadata: ListMeta{rev}, Items: make([]T, 0, len(items))}
			for _, r := range items {
				out.Body.Items = append(out.Body.Items, *r.(P))
			}
			return out, nil
		})
	handle(a, huma.Operation{OperationID: "get" + one, Method: http.MethodGet, Path: path + "/{name}", Tags: tags, Summary: "Get one " + strings.ToLower(one)},
		func(ctx context.Context, in *nameInput) (*oneOutput[T], error) {
			r, err := a.get(ctx, info, in.Name)
			return answer[T, P](r, nil, err)
		})
	a.registerWatch(info)
	if info.Observed {
		return
	}
	if !info.Joined {
		handle(a, huma.Operation{OperationID: "create" + one, Method: http.MethodPost, Path: path, Tags: tags, Summary: "Create a " + strings.ToLower(one), DefaultStatus: http.StatusCreated},
			func(ctx context.Context, in *writeInput) (*oneOutput[T], error) {
				r, err := decodeAs(info, in.RawBody)
				if err != nil {
					return nil, err
				}
				warnings, err := a.create(ctx, r, writing{in.DryRun, in.Force, in.Confirmation})
				return answer[T, P](r, warnings, err)
			})
		describeBody[T](a, a.huma.OpenAPI().Paths[path].Post)
	}
	handle(a, huma.Operation{OperationID: "replace" + one, Method: http.MethodPut, Path: path + "/{name}", Tags: tags, Summary: "Replace the spec, labels and annotations of a " + strings.ToLower(one),
		Description: "With a resourceVersion in the body, or If-Match, the write is refused (409) where the resource has changed since. Where nothing would change, nothing is written."},
		func(ctx context.Context, in *replaceInput) (*oneOutput[T], error) {
			r, err := decodeAs(info, in.RawBody)
			if err != nil {
				return nil, err
			}
			if err := matchVersion(r, in.Name, in.IfMatch); err != nil {
				return nil, err
			}
			r, warnings, err := a.replace(ctx, r, writing{in.DryRun, in.Force, in.Confirmation})
			return answer[T, P](r, warnings, err)
		})
	item := a.huma.OpenAPI().Paths[path+"/{name}"]
	describeBody[T](a, item.Put)
	handle(a, huma.Operation{OperationID: "delete" + one, Method: http.MethodDelete, Path: path + "/{name}", Tags: tags, Summary: "Delete a " + strings.ToLower(one) + ", and answer what it was"},
		func(ctx context.Context, in *deleteInput) (*oneOutput[T], error) {
			r, err := a.delete(ctx, info, in.Name, in.ResourceVersion, writing{dryRun: in.DryRun, force: in.Force})
			return answer[T, P](r, nil, err)
		})
}

// answer makes the answer that is one resource.
func answer[T any, P pointer[T]](r model.Resource, warnings []string, err error) (*oneOutput[T], error) {
	if err != nil {
		return nil, err
	}
	out := &oneOutput[T]{ETag: etag(r.Meta().ResourceVersion), Body: *r.(P)}
	for _, w := range warnings {
		out.Warnings = append(out.Warnings, warningHeader(w))
	}
	return out, nil
}

// parseSelector reads a selector of the query; nil where none is given.
func parseSelector(parameter, text string) (*model.Selector, error) {
	if text == "" {
		return nil, nil
	}
	s, err := model.ParseSelector(text)
	if err != nil {
		p := problem(http.StatusBadRequest, "%s does not parse", parameter)
		p.Errors = []model.FieldError{{Field: "query." + parameter, Message: err.Error()}}
		return nil, p
	}
	return &s, nil
}

func etag(version string) string {
	if version == "" {
		return ""
	}
	return `"` + version + `"`
}

// plural names a kind in operations: Hosts, Policies.
func plural(kind string) string {
	if stem, ok := strings.CutSuffix(kind, "y"); ok {
		return stem + "ies"
	}
	return kind + "s"
}
