package api

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"weft/internal/version"
	"weft/model"
)

func humaConfig() huma.Config {
	c := huma.DefaultConfig("weft", version.Version)
	c.Info.Version = "v1" // the API's own, so that the file changes only with it
	c.Info.Description = "The resources of weft. Send an access token as `Authorization: Bearer TOKEN`. " +
		"A viewer may read; an admin may write. Every refusal is a problem document (RFC 9457) that names each fault and its remedy."
	c.DocsPath, c.SchemasPath = "", ""
	c.CreateHooks = nil
	c.Transformers = []huma.Transformer{fromHuma}
	c.RejectUnknownQueryParameters = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	c.Security = []map[string][]string{{"token": {}}}
	c.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[model.Selector](), reflect.TypeFor[selectorSchema]())
	return c
}

// selectorSchema describes model.Selector, which reads two forms.
type selectorSchema struct{}

// Schema implements huma.SchemaProvider.
func (selectorSchema) Schema(huma.Registry) *huma.Schema {
	text := &huma.Schema{Type: "string"}
	return &huma.Schema{
		Description: `A Kubernetes label selector: a string ("app=web,env in (prod,stage),!legacy"; "*" takes everything), or an object. Answers hold the string.`,
		OneOf: []*huma.Schema{text, {
			Type: "object", AdditionalProperties: false,
			Properties: map[string]*huma.Schema{
				"matchLabels": {Type: "object", AdditionalProperties: text},
				"matchExpressions": {Type: "array", Items: &huma.Schema{
					Type: "object", Required: []string{"key", "operator"}, AdditionalProperties: false,
					Properties: map[string]*huma.Schema{
						"key":      text,
						"operator": {Type: "string", Enum: []any{"In", "NotIn", "Exists", "DoesNotExist"}},
						"values":   {Type: "array", Items: text},
					},
				}},
			},
		}},
	}
}

// enums are the values of fields whose Go type is a string of its own.
var enums = map[string][]any{
	"GroupSpec.mode":       {model.ModeObserve, model.ModeSelective, model.ModeEnforce},
	"PolicySpec.tier":      {model.TierEmergency, model.TierSecurity, model.TierPlatform, model.TierApplication, model.TierBaseline, model.TierDefault},
	"PolicySpec.stage":     {model.StageDraft, model.StageStaged, model.StageActive},
	"PolicyRule.action":    {model.ActionAllow, model.ActionDeny, model.ActionReject, model.ActionPass, model.ActionLog},
	"PolicyStatus.state":   {model.PolicyDraft, model.PolicyStaged, model.PolicyActive, model.PolicyPending, model.PolicyFailed},
	"TapSpec.direction":    {model.DirectionBoth, model.DirectionIngress, model.DirectionEgress},
	"TapStatus.state":      {model.TapPending, model.TapActive, model.TapDegraded, model.TapError, model.TapPaused},
	"HostStatus.state":     {model.HostOnline, model.HostOffline, model.HostRevoked},
	"Condition.severity":   {model.SeverityCritical, model.SeverityWarning, model.SeverityInfo},
	"AlertSpec.severity":   {model.SeverityCritical, model.SeverityWarning, model.SeverityInfo},
	"ProbeSpec.kind":       {model.ProbeHTTP, model.ProbeTCP, model.ProbeDNS, model.ProbeICMP},
	"RelayStatus.state":    {model.HostOnline, model.HostOffline, model.HostRevoked},
	"JoinTokenSpec.role":   {model.RoleHost, model.RoleRelay},
	"AccessTokenSpec.role": {model.AccessAdmin, model.AccessViewer},
	"User.role":            {model.AccessAdmin, model.AccessViewer},
	"WorkloadSpec.kind":    {model.WorkloadHost, model.WorkloadContainer, model.WorkloadUnit, model.WorkloadGuest},
}

// describeSchemas adds to the schemas what the comments of the model say, and
// takes out huma's error model, which nothing sends.
func describeSchemas(schemas map[string]*huma.Schema) {
	delete(schemas, "ErrorModel")
	delete(schemas, "ErrorDetail")
	for name, s := range schemas {
		if s.Description == "" {
			s.Description = model.TypeDoc(name)
		}
		for field, f := range s.Properties {
			f.Nullable = false // what is empty is left out
			if f.Ref == "" && f.Description == "" {
				f.Description = model.StructFieldDoc(name, field)
			}
			if values := enums[name+"."+field]; values != nil {
				f.Enum = values
			}
		}
	}
}
