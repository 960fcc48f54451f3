package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/contexts"
	"weft/controller/api/client"
	"weft/model"
)

func newLoginCommand() *cobra.Command {
	var tokenFile, name string
	c := &cobra.Command{
		Use:   "login URL --token-file FILE|-",
		Short: "Keep a controller and its token as a context",
		Long: `Keep a controller and its token as a context, and use it from now on.

The token names the controller's certificate authority, so that the very first
connection is to nobody else; the authority is kept with the context. The token
is read from a file or from standard input, never from the command line, where
others could see it.`,
		Example: `  weft login https://controller.example:8443 --token-file admin.token
  pass show weft | weft login https://controller.example:8443 --token-file - --name prod`,
		Args: exactly(1, "URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := url.Parse(args[0])
			if err != nil || u.Scheme != "https" || u.Host == "" {
				return usage(fmt.Errorf("%q is not of the form https://HOST[:PORT]", args[0]))
			}
			if tokenFile == "" {
				return usage(errors.New("give --token-file FILE, or --token-file - for standard input"))
			}
			token, err := readToken(tokenFile, cmd.InOrStdin())
			if err != nil {
				return err
			}
			all, err := contexts.Load()
			if err != nil {
				return err
			}
			x := contexts.Context{Name: name, Server: strings.TrimRight(args[0], "/"), Token: token}
			if x.Name == "" {
				x.Name = u.Hostname()
			}
			if err := model.CheckLabelKey(x.Name); err != nil {
				return usage(fmt.Errorf("--name: %w", err))
			}
			cl, err := client.New(client.Config{Server: x.Server, Token: token, OnAuthority: func(pem []byte) { x.CA = string(pem) }})
			if err != nil {
				return err
			}
			user, err := cl.WhoAmI(cmd.Context())
			if err != nil {
				return err
			}
			all.Put(x)
			if err := all.Save(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "logged in to %s as %s (%s), context %q\n", x.Server, user.Actor, user.Role, x.Name)
			return nil
		},
	}
	c.Flags().StringVar(&tokenFile, "token-file", "", "file with the access token, or - for standard input")
	c.Flags().StringVar(&name, "name", "", "name of the context (default the host of the URL)")
	return c
}
