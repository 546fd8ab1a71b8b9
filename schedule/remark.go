package schedule

import (
	"fmt"
	"time"
)

// Remark says in words what is unusual about a moment that the spec gave: that the
// clock was changed there, or that the sun had not risen for weeks. It is empty for
// a moment like any other.
func Remark(spec Spec, at time.Time) string {
	switch s := spec.(type) {
	case between:
		return Remark(s.spec, at)
	case *cron:
		return s.remark(at.Unix())
	case solar:
		return s.remark(at)
	}
	return ""
}

func (c *cron) remark(at int64) string {
	here := stretchAt(c.zone, at)
	if wall, ok := c.wall(at + here.offset); !ok || wall != at+here.offset {
		return "the time meant does not exist on this day: the clocks go forward over it"
	}
	before := stretchAt(c.zone, here.start-1)
	if at-here.start < before.offset-here.offset {
		return "the second time on this day that clocks show this: they have gone back by " + goneBack(before, here)
	}
	after := stretchAt(c.zone, here.end)
	if here.end-at <= here.offset-after.offset {
		text := "clocks show this twice on this day: this is the first time"
		if !c.elapsed {
			text += ", and the only one that fires"
		}
		return text
	}
	return ""
}

func goneBack(before, after stretch) string {
	return durationText(time.Duration(before.offset-after.offset) * time.Second)
}

func (s solar) remark(at time.Time) string {
	const usual = 36 * time.Hour
	if s.event.side == 0 {
		return ""
	}
	if next, ok := s.Next(at.Add(-usual)); ok && next.Before(at) {
		return ""
	}
	noon := s.noon(floorDiv(at.Add(-s.offset).Unix()+int64(s.longitude*240), day) - 1)
	name, horizon := "polar day", 90-s.event.zenith
	if s.height(noon) < horizon {
		name = "polar night"
	}
	return fmt.Sprintf("the first %s after days without: %s", s.event.name, name)
}
