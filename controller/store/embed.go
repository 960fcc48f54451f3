package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// embed starts etcd in dir. It listens on no socket: the only member talks to
// nobody, and the client calls it in the process.
func (s *Store) embed(ctx context.Context, dir string) error {
	if dir == "" {
		return errors.New("store needs a data directory or etcd endpoints")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	cfg := embed.NewConfig()
	cfg.Name = "weft"
	cfg.Dir = filepath.Join(dir, "etcd")
	nobody := url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{nobody}, []url.URL{nobody}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "revision", "10000"
	cfg.QuotaBackendBytes = 4 << 30
	cfg.LogLevel = "error"
	// etcd ends the program where it cannot write; it must say why.
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapcore.NewCore(
		zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "msg", LevelKey: "level", EncodeLevel: zapcore.CapitalLevelEncoder}),
		zapcore.Lock(os.Stderr), zapcore.DPanicLevel)))

	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		if strings.Contains(err.Error(), "timeout") || strings.Contains(err.Error(), "lock") {
			return fmt.Errorf("open %s: %w; is another controller using it?", cfg.Dir, err)
		}
		return fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		etcd.Close()
		return fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
	case <-ctx.Done():
		etcd.Close()
		return ctx.Err()
	case <-time.After(60 * time.Second):
		etcd.Close()
		return fmt.Errorf("start etcd in %s: not ready after a minute", cfg.Dir)
	}
	s.dir, s.at = dir, cfg.Dir
	s.client = v3client.New(etcd.Server)
	s.dead = etcd.Err()
	s.stop = func() {
		s.client.Close()
		etcd.Close()
	}
	return nil
}
