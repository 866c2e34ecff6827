package embedded_test

import "context"

func (s *script) dump() {
	ctx := context.Background()
	log, _ := s.server.Stream(ctx, "changefeed_league")
	info, _ := log.Info(ctx)
	s.Log(info.State)
	for i := max(info.State.FirstSeq, info.State.LastSeq-30); i <= info.State.LastSeq; i++ {
		m, err := log.GetMsg(ctx, i)
		if err != nil {
			s.Log(i, err)
			continue
		}
		if m.Data[1] == 1 {
			s.Logf("%d begin %x %s", i, m.Data[10:14], m.Data[18:])
		} else {
			s.Logf("%d kind %d %x %.200q", i, m.Data[1], m.Data[10:14], m.Data[18:])
		}
	}
	store, _ := s.server.ObjectStore(ctx, "changefeed_league")
	objects, _ := store.List(ctx)
	for _, o := range objects {
		data, err := store.GetBytes(ctx, o.Name)
		s.Logf("snapshot %s %v %.700q", o.Name, err, data)
	}
	s.Log("model", s.players.lineage, s.games.lineage)
	for _, m := range s.members {
		s.Log("member", m.id, m.players.Lineage(), m.games.Lineage(), m.replica != nil)
	}
}
