// Package fleet is the dashboard of a simulated fleet of devices: a table and its views, the
// simulation, and a page that shows them live in a browser.
//
// A caller can save the table of devices, or restore it before [Fleet.Populate]. The views follow it:
//
//	f := fleet.New()
//	if err := f.Populate(50_000); err != nil {
//		return err
//	}
//	go f.Run(ctx, 2000)
//	http.ListenAndServe("127.0.0.1:8080", f.Handler())
package fleet

import (
	"fmt"
	"math"
	"time"

	"github.com/seed-637b77f9/changefeed"
)

// A Status is the condition of a device.
type Status string

// The statuses of a device. Its temperature decides between the first three.
const (
	OK      Status = "ok"
	Warm    Status = "warm"
	Hot     Status = "hot"
	Offline Status = "offline"
)

// A Device is a row of the fleet. It has no pointers and no time.Time, so a row that was encoded as
// JSON is decoded as an equal row.
type Device struct {
	ID          int         `json:"id"`
	Name        string      `json:"name"`
	Region      string      `json:"region"` // the ID of a Region
	Status      Status      `json:"status"`
	Temperature float64     `json:"temperature"` // in °C, or 0 when the device is offline
	Load        float64     `json:"load"`        // from 0 to 1
	Recent      [12]float64 `json:"recent"`      // the last temperatures, with the newest at the end
	Polls       int         `json:"polls"`       // how often the device was polled
	Updated     int64       `json:"updated"`     // when it was polled last, in milliseconds since 1970
}

// A Total has the number of a region's devices with each status, and the sum of their temperatures. The sum
// is in tenths of °C, because a sum of integers is exact when devices are added and removed.
type Total struct {
	OK      int `json:"ok"`
	Warm    int `json:"warm"`
	Hot     int `json:"hot"`
	Offline int `json:"offline"`
	Tenths  int `json:"tenths"`
}

// add adds a device if sign is 1, and removes one if sign is -1.
func (t *Total) add(d *Device, sign int) {
	switch d.Status {
	case OK:
		t.OK += sign
	case Warm:
		t.Warm += sign
	case Hot:
		t.Hot += sign
	case Offline:
		t.Offline += sign
	}
	t.Tenths += sign * int(math.Round(10*d.Temperature))
}

// A Region is a place where devices stand.
type Region struct {
	ID   string `json:"id"`
	Name string `json:"name"`

	climate float64 // the mean temperature of an idle device, in °C
}

// Regions are the regions of every fleet. They must not be modified.
var Regions = []Region{
	{"frankfurt", "Frankfurt", 23},
	{"london", "London", 22},
	{"mumbai", "Mumbai", 25},
	{"oregon", "Oregon", 22},
	{"sao-paulo", "São Paulo", 24},
	{"singapore", "Singapore", 26},
	{"stockholm", "Stockholm", 21},
	{"sydney", "Sydney", 23},
	{"tokyo", "Tokyo", 23},
	{"virginia", "Virginia", 24},
}

// A Fleet has the table of the dashboard, and its views.
type Fleet struct {
	Devices *changefeed.Table[int, Device]
	Totals  *changefeed.View[string, changefeed.Grouped[string, Total]] // by region
	Hottest *changefeed.View[int, Device]                               // ten of them, the hottest first

	byRegion      *changefeed.Index[string, int, Device]
	byTemperature *changefeed.Index[float64, int, Device]
}

// retained is the number of changes with which a page can resume: those of half a minute, at the
// usual 2,000 a second.
const retained = 60_000

// New returns a fleet without devices.
func New() *Fleet {
	f := &Fleet{Devices: changefeed.NewTable("devices", func(d *Device) int { return d.ID })}
	f.byRegion = changefeed.NewIndex(f.Devices, "region", func(d *Device) string { return d.Region })
	f.byTemperature = changefeed.NewIndex(f.Devices, "temperature", func(d *Device) float64 { return d.Temperature })
	f.Totals = changefeed.Group(f.Devices, "totals", func(d *Device) string { return d.Region }, (*Total).add)
	f.Hottest = changefeed.Top(f.byTemperature, "hottest", 10)
	f.Devices.Retain(retained)
	f.Hottest.Retain(1000)
	return f
}

// Populate adds n devices to the table, if it is empty. A table that was restored stays as it is.
func (f *Fleet) Populate(n int) error {
	if f.Devices.Len() > 0 {
		return nil
	}
	for id := range n {
		if _, err := f.Devices.Insert(newDevice(id + 1)); err != nil {
			return err
		}
	}
	return nil
}

// newDevice returns a device that was polled a few times.
func newDevice(id int) Device {
	region := regionOf(id)
	d := Device{ID: id, Name: fmt.Sprintf("%.3s-%05d", region.ID, id), Region: region.ID}
	d.start()
	now := time.Now()
	for range 2 * len(d.Recent) {
		d.poll(now)
	}
	return d
}
