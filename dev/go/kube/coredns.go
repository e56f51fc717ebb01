package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

// coredns serves the Corefile named by its argument, with the few plugins that a cluster's names need.
func coredns() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "Usage: coredns COREFILE")
		os.Exit(2)
	}
	corefile, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dnsserver.Directives = []string{"bind", "health", "ready", "errors", "cache", "hosts", "kubernetes", "forward"}
	caddy.AppName = "CoreDNS"
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: corefile, Filepath: os.Args[1], ServerTypeName: "dns"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stop
		instance.ShutdownCallbacks()
		os.Exit(0)
	}()
	instance.Wait()
}
