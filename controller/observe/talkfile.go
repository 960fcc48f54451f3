package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"time"
)

// saveTalkEvery is how much of conversations a killed controller may lose.
const saveTalkEvery = 10 * time.Second

// talkFile is the file of rule counters and conversations.
type talkFile struct {
	Evicted uint64               `json:"evicted"`
	Unread  uint64               `json:"unread"`
	Lost    uint64               `json:"lost"`
	Totals  map[uint64]Hits      `json:"totals"` // of rules, by id
	Hosts   map[string]*counters `json:"hosts"`  // by UID
	// Labels are the distinct sets; conversations name theirs by place, -1 is none.
	Labels        []map[string]string `json:"labels"`
	Conversations []talkRecord        `json:"conversations"`
}

type talkRecord struct {
	Conversation
	Own  int `json:"own"`
	Peer int `json:"peerSet"`
}

func (o *Observer) keepTalk(ctx context.Context) error {
	if o.cfg.Conversations == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(saveTalkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return o.saveTalk()
		case <-tick.C:
			if err := o.saveTalk(); err != nil {
				o.deps.Log.Warn("keep conversations", "error", err)
			}
		}
	}
}

func (o *Observer) saveTalk() error {
	o.mu.Lock()
	if !o.unsavedTalk || o.cfg.Conversations == "" {
		o.mu.Unlock()
		return nil
	}
	o.unsavedTalk = false
	f := talkFile{Evicted: o.talk.Evicted, Unread: o.unread, Lost: o.lost, Totals: maps.Clone(o.totals), Hosts: map[string]*counters{}}
	for uid, h := range o.hosts {
		if h.policy != nil {
			f.Hosts[uid] = h.policy.clone()
		}
	}
	list := o.talk.sorted()
	o.mu.Unlock()

	places := map[string]int{}
	place := func(labels map[string]string) int {
		if labels == nil {
			return -1
		}
		text := fmt.Sprint(labels)
		at, known := places[text]
		if !known {
			at = len(f.Labels)
			places[text], f.Labels = at, append(f.Labels, labels)
		}
		return at
	}
	for _, c := range list {
		r := talkRecord{Conversation: *c, Own: place(c.Labels), Peer: place(c.PeerLabels)}
		r.Labels, r.PeerLabels = nil, nil
		f.Conversations = append(f.Conversations, r)
	}
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode conversations: %w", err)
	}
	return replaceFile(o.cfg.Conversations, data)
}

func (o *Observer) loadTalk() {
	if o.cfg.Conversations == "" {
		return
	}
	data, err := os.ReadFile(o.cfg.Conversations)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var f talkFile
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		o.deps.Log.Warn("pass over the file of conversations; counting begins anew", "file", o.cfg.Conversations, "error", err)
		return
	}
	o.talk.Evicted, o.unread, o.lost = f.Evicted, f.Unread, f.Lost
	maps.Copy(o.totals, f.Totals)
	for uid, c := range f.Hosts {
		if c != nil {
			o.host(uid).policy = c
		}
	}
	at := func(i int) map[string]string {
		if i < 0 || i >= len(f.Labels) {
			return nil
		}
		return f.Labels[i]
	}
	for _, r := range f.Conversations {
		c := r.Conversation
		c.Labels, c.PeerLabels = at(r.Own), at(r.Peer)
		if c.ID != "" && len(o.talk.byID) < MaxConversations {
			o.talk.add(&c)
		}
	}
}
