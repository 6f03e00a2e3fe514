package private

import "time"

// later does something a while after it was wanted, once for all who wanted it
// meanwhile.
type later struct {
	wanted  chan struct{} // holds one element
	closing chan struct{}
	done    chan struct{}
}

func (l *later) start(after time.Duration, do func()) {
	*l = later{wanted: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for {
			select {
			case <-l.wanted:
			case <-l.closing:
				return
			}
			select {
			case <-time.After(after):
			case <-l.closing:
				return
			}
			do()
		}
	}()
}

func (l *later) want() {
	select {
	case l.wanted <- struct{}{}:
	default:
	}
}

// close waits for what is being done; what is wanted isn't done any more.
func (l *later) close() {
	close(l.closing)
	<-l.done
}
