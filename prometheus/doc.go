// Package changefeedprom reports tables of [changefeed] and their feeds to Prometheus.
//
//	registry.MustRegister(changefeedprom.NewCollector(players, games))
//
// [NewCollector] lists the metrics. The file grafana.json beside this package is a dashboard for
// them.
//
// The name of the package is not that of its directory, because its users also import the package
// prometheus of the client library.
package changefeedprom
