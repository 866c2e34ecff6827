// Package web sends the rows and changes of a table to browsers, and to other programs, over HTTP.
// [Changes] sends a selection as server-sent events, [Rows] sends its present rows as JSON, and
// [Script] is the other end in a browser:
//
//	mux.Handle("GET /players/changes", web.Changes(players.Selection()))
//	mux.Handle("GET /players", web.Rows(players.Selection()))
//	mux.Handle("GET /changefeed.js", web.Script())
//
// The page then has the rows in a Map, and is called for each change:
//
//	<script type="module">
//	  import { follow } from "/changefeed.js";
//	  const feed = follow("/players/changes", {
//	    key: (player) => player.ID,
//	    change: (before, now) => console.log(before, "->", now),
//	  });
//	  document.addEventListener("visibilitychange", () => (document.hidden ? feed.pause() : feed.resume()));
//	</script>
//
// [ChangesFunc] and [RowsFunc] choose the selection by the request:
//
//	mux.Handle("GET /teams/{team}/changes", web.ChangesFunc(func(r *http.Request) (changefeed.Selection[int, Player], error) {
//		return byTeam.Equal(r.PathValue("team")), nil
//	}))
//
// # Events
//
// A feed begins with the event "reset" and the present rows. Then comes the event "ready", and then
// each change. Rows and changes are events without a name, which a browser calls "message". Their
// data is RethinkDB's JSON, see [changefeed.Change.MarshalJSON]. The ID 0 stands for no position:
//
//	event: reset
//	id: 0
//	data: {"state":"initializing"}
//
//	data: {"new_val":{"ID":1,"Score":10}}
//
//	event: ready
//	id: B2bQ8pX1S5Gk0nVt3xYw9A.1
//	data: {"state":"ready"}
//
//	id: B2bQ8pX1S5Gk0nVt3xYw9A.2
//	data: {"old_val":{"ID":1,"Score":10},"new_val":{"ID":1,"Score":11}}
//
// The ID is the position of the feed, after the event. A browser that has lost its connection
// connects again and sends the last one in the header Last-Event-ID. The feed then goes on with
// the next change, if the table retains it: see [changefeed.Table.Retain]. Otherwise a reset
// comes again, and the page discards its rows. That happens, too, when a client was slower than its
// buffer, when the table was reset, and when the page has seen changes that were lost with the
// server: see the package durable. The data of such a reset is the JSON of a
// [changefeed.SkippedError], whose count includes the changes since the ID.
//
// A feed that goes on begins with the event "resumed". The event "position" has a newer ID than the
// last change, because the changes since then were not of the selection. The data of both is {}.
//
// The parameter "after" is for the first request of a client that has the rows already, for example
// from [Rows]. The selection must be the one of these rows. The header counts before it. The script
// does not take rows from elsewhere.
//
// A browser opens at most six connections to a server, if it does not use HTTP/2. Each feed needs
// one for as long as it is open, in all pages of the browser together. A page that is hidden should
// therefore pause its feeds, and resume them when it is seen again.
//
// When the table is dropped, or a row has no JSON, the event "end" comes. Its data says why. The page
// must then close its EventSource, or the browser connects again and again.
//
// # Slow clients
//
// Changes that are ready are written together, and are encoded once for all clients of a handler. A
// client that reads slowly costs a buffer ([Buffer]), which shares its changes with those of the
// others. It delays nobody. A client that does not read at all is dropped after a time ([Deadline]),
// and resumes when it comes back. A page that shows the newest state wants [Squash].
//
// [http.Server.Shutdown] ends all feeds at once. Only the first of all requests to a server is not
// ended if it comes while Shutdown runs. Servers with a WriteTimeout or a ReadTimeout can serve
// feeds, because these do not apply to them.
//
// A middleware that wraps the [http.ResponseWriter] must have a method Flush, or a method Unwrap as
// [http.ResponseController] describes it. Otherwise the answer to a request for a feed is the status
// 500. [http.TimeoutHandler] has neither.
//
// # What it protects from
//
// A handler reads, and never writes to a table. It sends to a client what its selection has, and
// nothing else. It sends back nothing that a request contains. The data is JSON, whose characters
// "<", ">" and "&" are escaped. Pages of other origins cannot read it, unless [AllowOrigin] names
// them. The number of clients can be limited ([MaxClients]).
//
// A handler does not know who may read: that is for a middleware before it, which checks each
// request. Whoever is logged out later still reads the feeds that were open then, until their
// request's context ends. Rows are sent with all fields that encoding/json sees. To leave some out,
// tag them, or keep a table of what may be seen. A position tells how many changes the table had.
package web
