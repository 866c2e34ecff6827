package fleet

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	tick       = 10 * time.Millisecond
	watchEvery = 500 * time.Millisecond
	maxWatched = 500 // of the hottest devices, which are polled more often
	day        = 10 * time.Minute

	warmFrom = 58 // °C
	hotFrom  = 66
)

// Run polls the devices until ctx ends, and then returns nil. A poll updates the row of one device.
// One poll of ten is of the hottest devices, and the others are of all devices. Run returns an error
// if there are no devices when it begins.
func (f *Fleet) Run(ctx context.Context, updatesPerSecond int) error {
	var all []int
	for id := range f.Devices.All() {
		all = append(all, id)
	}
	if len(all) == 0 {
		return errors.New("fleet: no devices")
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var watched []int
	var watchedAt time.Time
	last, due := time.Now(), 0.0
	for {
		if time.Since(watchedAt) >= watchEvery {
			watched, watchedAt = f.watched(), time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		// A machine that cannot keep up makes fewer updates.
		due += float64(updatesPerSecond) * min(time.Since(last), 2*tick).Seconds()
		last = time.Now()
		for ; due >= 1 && ctx.Err() == nil; due-- {
			from := all
			if rand.IntN(10) == 0 {
				from = watched
			}
			_, err := f.Devices.Update(from[rand.IntN(len(from))], func(d *Device) { d.poll(time.Now()) })
			if err != nil {
				return err
			}
		}
	}
}

// watched returns the IDs of the devices that are polled more often.
func (f *Fleet) watched() (ids []int) {
	for id := range f.byTemperature.Backward() {
		if len(ids) == maxWatched {
			break
		}
		ids = append(ids, id)
	}
	return ids
}

// start sets the values of a device that was switched on.
func (d *Device) start() {
	d.Load = min(max(0, 0.45+0.19*rand.NormFloat64()), 1)
	d.Recent[len(d.Recent)-1] = 20 + 50*d.Load
	d.Status = OK
}

// poll changes a device as if it had been asked for its values. It may not answer.
func (d *Device) poll(now time.Time) {
	d.Polls++
	d.Updated = now.UnixMilli()
	switch {
	case d.Status != Offline && rand.IntN(500) == 0:
		d.Status, d.Load, d.Temperature = Offline, 0, 0
		return
	case d.Status == Offline && rand.IntN(10) > 0:
		return
	case d.Status == Offline:
		d.start()
	}
	d.Load = min(max(0, d.Load+0.03*(0.45-d.Load)+0.045*rand.NormFloat64()), 1)
	before := d.Recent[len(d.Recent)-1]
	d.Temperature = before + 0.3*(ambient(d.Region, now)+50*d.Load-before) + 0.7*rand.NormFloat64()
	d.Load, d.Temperature = math.Round(d.Load*100)/100, math.Round(d.Temperature*10)/10
	copy(d.Recent[:], d.Recent[1:])
	d.Recent[len(d.Recent)-1] = d.Temperature
	switch {
	case d.Temperature >= hotFrom:
		d.Status = Hot
	case d.Temperature >= warmFrom:
		d.Status = Warm
	default:
		d.Status = OK
	}
}

// regionOf returns the region of a new device. The first three have twice as many as the others.
func regionOf(id int) Region { return Regions[id%(len(Regions)+3)%len(Regions)] }

// ambient returns the temperature of an idle device in a region. Days are short.
func ambient(region string, now time.Time) float64 {
	i := slices.IndexFunc(Regions, func(r Region) bool { return r.ID == region })
	if i < 0 {
		return 20
	}
	days := float64(now.UnixMilli())/float64(day.Milliseconds()) + float64(i)/float64(len(Regions))
	return Regions[i].climate + 3*math.Sin(2*math.Pi*days)
}
