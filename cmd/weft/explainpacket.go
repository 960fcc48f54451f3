package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api"
	"weft/controller/api/client"
	"weft/controller/observe"
	"weft/model"
	"weft/policy"
)

// packetFlags are those of "weft explain A B SERVICE".
type packetFlags struct {
	process, peerProcess, stage, output, flow string
}

func (f *packetFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.process, "process", "", "executable that sends, as /srv/orders/api")
	c.Flags().StringVar(&f.peerProcess, "peer-process", "", "executable that receives")
	c.Flags().StringVar(&f.stage, "stage", "Active", "up to which stage policies count: Active|Staged|Draft")
	c.Flags().StringVarP(&f.output, "output", "o", "text", "text|json")
	c.Flags().StringVar(&f.flow, "flow", "", "explain a recorded conversation by its id, in place of A B SERVICE")
}

// explainPacket asks the controller and prints the answer.
func explainPacket(cmd *cobra.Command, o *options, args []string, f packetFlags) error {
	if err := checkOutput(f.output, "text", "json"); err != nil {
		return err
	}
	cl, err := o.connect()
	if err != nil {
		return err
	}
	q := &api.ExplainRequest{Process: model.PolicyProcess{Exe: f.process}, PeerProcess: model.PolicyProcess{Exe: f.peerProcess}}
	told := ""
	if f.flow != "" {
		if q, told, err = flowQuestion(cmd, cl, f.flow); err != nil {
			return err
		}
	} else {
		q.Source, q.Destination, q.Service = args[0], args[1], args[2]
	}
	q.Stage = model.Stage(f.stage)
	x, err := cl.Explain(cmd.Context(), q)
	if err != nil {
		return explainProblem(err)
	}
	if f.output == "json" {
		return show.JSON(cmd.OutOrStdout(), x)
	}
	fmt.Fprint(cmd.OutOrStdout(), x.Text)
	if told != "" {
		x.Notes = append(x.Notes, told)
	}
	for _, n := range x.Notes {
		fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", wrap("Note: "+n+".", "", 78))
	}
	return nil
}

// flowQuestion asks about a recorded conversation as the policies are now. It
// tells too how its host knew the other end.
func flowQuestion(cmd *cobra.Command, cl *client.Client, id string) (q *api.ExplainRequest, told string, err error) {
	list, err := cl.Conversations(cmd.Context(), client.ConversationFilter{ID: id})
	if err != nil {
		return nil, "", explainProblem(err)
	}
	if len(list.Items) == 0 {
		return nil, "", fmt.Errorf("no conversation %s is remembered; weft policy denies lists ids", id)
	}
	c := &list.Items[0]
	q = &api.ExplainRequest{Source: c.Workload, Destination: flowPeer(c), Service: serviceName(c), Process: c.Process}
	if q.Destination == "" {
		return nil, "", errors.New("nothing is known of the other end of this conversation")
	}
	if c.PolicyDirection() == policy.Ingress {
		q.Source, q.Destination, q.Process, q.PeerProcess = q.Destination, q.Source, model.PolicyProcess{}, q.Process
	}
	return q, toldBy[c.PeerBy], nil
}

// toldBy says what told who the other end of a conversation was.
var toldBy = map[string]string{
	"address": "the other end was known by its address alone, which all share that hide behind it",
	"option":  "the other end was told by its own host, sealed in the connection's first packet",
	"socket":  "the other end was known by its socket, on the same machine",
	"port":    "the other end was known by its port on the same machine: it is a guest",
}

func flowPeer(c *observe.Conversation) string {
	for _, e := range []model.Entity{model.EntityDNS, model.EntityControlPlane, model.EntityRelay, model.EntityMetadata} {
		if c.Peer == "" && slices.Contains(c.Entities, string(e)) {
			return string(e)
		}
	}
	if c.Peer == "" && len(c.Names) == 0 {
		return c.PeerAddress
	}
	return peerName(c)
}
