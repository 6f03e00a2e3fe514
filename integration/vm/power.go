package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// errPower is the end of a machine that has lost its power.
var errPower = errors.New("the power is gone")

// longest is how long a machine builds before it loses its power, at most.
const longest = 15 * time.Second

// losePower starts a machine so many times on one disk and kills it while it builds;
// the test in it looks each time at what is left (TestPowerLoss of integration/chaos).
// At last it ends by itself.
//
// What the guest has written and not flushed is lost, be it in its memory or in the
// disk's cache: QEMU keeps in its own memory which parts of a new qcow2 file hold what,
// until a flush, and the kill takes that. Each time begins with a new file on top of what
// the last one left.
func losePower(ctx context.Context, o options, m machine) error {
	state := filepath.Join(m.dir, "state")
	if err := os.Mkdir(state, 0o755); err != nil {
		return err
	}
	disk, layer := state+".ext4", state+".qcow2"
	if err := makeDisk(ctx, state, disk, 4<<10); err != nil {
		return err
	}
	m.state = layer
	lost := 0
	for round := 1; round <= o.losses+1; round++ {
		if err := runIn(ctx, ".", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", absolute(disk), layer); err != nil {
			return err
		}
		m.losePowerIn = rand.N(longest)
		last := round > o.losses
		if last {
			m.losePowerIn, m.notes = 0, []string{"kiln.last"}
		}
		began := time.Now()
		err := m.run(ctx)
		said, _ := os.ReadFile(m.verdict())
		fmt.Printf("round %d: %v, after %v\n", round, strings.Fields(string(said)), time.Since(began).Round(time.Second))
		if round > 1 && strings.Contains(string(said), "lost true") {
			lost++
		}
		if m.losePowerIn > 0 && !errors.Is(err, errPower) {
			return errors.Join(err, fmt.Errorf("round %d has ended by itself", round))
		}
		if last {
			if lost == 0 {
				err = errors.Join(err, errors.New("no round has lost what was not synced: the machine is no test"))
			}
			return err
		}
		if err := runIn(ctx, ".", "qemu-img", "commit", "-q", layer); err != nil {
			return err
		}
	}
	return nil
}

// absolute is for names that QEMU takes as relative to another file.
func absolute(name string) string {
	if abs, err := filepath.Abs(name); err == nil {
		return abs
	}
	return name
}
