package schedule

import (
	"strconv"
	"strings"
	"time"
)

// A Definition is a spec as it is written down. Exactly one of Cron, Every, Solar
// and Clocked is set. In JSON and YAML it is an object with these fields, or the
// text that [ParseDefinition] reads.
type Definition struct {
	// Cron has five fields (minute, hour, day of month, month, day of week), or six
	// with the second before them, or is a name such as @daily. See
	// docs/scheduling.md for the whole of it.
	Cron string
	// Timezone is where Cron's fields are read: a name of the tz database. Empty is
	// UTC. It goes with Cron alone.
	Timezone string

	// Every is a time between moments, from [ShortestEvery] to [LongestEvery].
	Every time.Duration
	// StartAt is the phase of Every, a moment from which it counts; zero is the Unix
	// epoch, at midnight UTC. It is no bound: see [Between].
	StartAt time.Time

	// Solar is dawn, sunrise, noon, sunset or dusk. Dawn and dusk are the civil ones,
	// with the sun six degrees below the horizon.
	Solar string
	// Latitude (north is positive, -90 to 90) and Longitude (east is positive, -180
	// to 180) say where, in degrees.
	Latitude, Longitude float64
	// Offset is added to the sun's moment; at most 24 hours either way.
	Offset time.Duration

	// Clocked is a single moment.
	Clocked time.Time
}

// longestText is how long the text of a spec may be, in bytes.
const longestText = 1000

const wantSpec = `a spec: every:5m, cron:0 2 * * *, @daily, solar:sunset@52.52,13.4, or clocked:2027-01-01T00:00:00Z`

// ParseDefinition reads the text of a spec:
//
//	every:PERIOD[@PHASE]                  every:5m   every:1h@2026-01-01T00:20:00Z
//	cron:[TZ=ZONE] FIELDS                 cron:0 2 * * *   cron:TZ=Europe/Berlin @daily
//	solar:EVENT@LATITUDE,LONGITUDE[±TIME] solar:sunset@52.52,13.4-15m
//	clocked:MOMENT                        clocked:2027-01-01T00:00:00Z
//
// A bare cron, a bare @name, CRON_TZ= for TZ=, and "@every 5m" are understood too.
// The fields are only told apart: [Definition.Validate] looks at each.
func ParseDefinition(text string) (Definition, error) {
	if len(text) > longestText {
		return Definition{}, wrong("spec", text, "at most "+strconv.Itoa(longestText)+" bytes")
	}
	text = strings.TrimSpace(text)
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "every":
		return parseEvery(rest)
	case "cron":
		return parseCronText(rest)
	case "solar":
		return parseSolar(rest)
	case "clocked":
		at, err := parseMoment("clocked", rest)
		return Definition{Clocked: at}, err
	}
	if rest, ok := strings.CutPrefix(text, "@every "); ok {
		return parseEvery(strings.TrimSpace(rest))
	}
	if strings.HasPrefix(text, "@") || strings.ContainsAny(text, " \t") {
		return parseCronText(text)
	}
	return Definition{}, wrong("spec", text, wantSpec)
}

func parseEvery(text string) (Definition, error) {
	period, phase, phased := strings.Cut(text, "@")
	d, err := parseDuration("every", period)
	if err != nil {
		return Definition{}, err
	}
	if d <= 0 {
		return Definition{}, wrong("every", period, "a time that is longer than none")
	}
	def := Definition{Every: d}
	if phased {
		def.StartAt, err = parseMoment("startAt", phase)
	}
	return def, err
}

func parseCronText(text string) (Definition, error) {
	def := Definition{Cron: strings.TrimSpace(text)}
	for _, prefix := range []string{"TZ=", "CRON_TZ="} {
		rest, ok := strings.CutPrefix(def.Cron, prefix)
		if !ok {
			continue
		}
		zone, fields, _ := strings.Cut(rest, " ")
		if zone == "" {
			return Definition{}, wrong("timezone", zone, wantZone)
		}
		def.Timezone, def.Cron = zone, strings.TrimSpace(fields)
		break
	}
	if def.Cron == "" {
		return Definition{}, wrong("cron", text, wantCron)
	}
	return def, nil
}

func parseSolar(text string) (Definition, error) {
	const want = "an event and where, as in sunset@52.52,13.4 or sunset@52.52,13.4-15m"
	event, where, _ := strings.Cut(text, "@")
	latitude, rest, found := strings.Cut(where, ",")
	if !found {
		return Definition{}, wrong("solar", text, want)
	}
	longitude, offset := rest, ""
	if i := strings.IndexAny(rest[min(1, len(rest)):], "+-"); i >= 0 {
		longitude, offset = rest[:i+1], rest[i+1:]
	}
	def := Definition{Solar: event}
	var err error
	if def.Latitude, err = parseDegrees("latitude", latitude); err != nil {
		return Definition{}, err
	}
	if def.Longitude, err = parseDegrees("longitude", longitude); err != nil {
		return Definition{}, err
	}
	if offset != "" {
		def.Offset, err = parseDuration("offset", offset)
	}
	return def, err
}

func parseDegrees(field, text string) (float64, error) {
	if strings.ContainsAny(text, "eExXpPnN_") { // 1e3, 0x1p4, Inf, NaN: numbers, but no place
		return 0, wrong(field, text, wantDegrees(field))
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, wrong(field, text, wantDegrees(field))
	}
	return f, nil
}

func parseDuration(field, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, wrong(field, text, "a time with its unit, as in 30s, 5m or 1h30m")
	}
	return d, nil
}

// Validate tells whether [Definition.Spec] would succeed.
func (d Definition) Validate() error {
	_, err := d.Spec()
	return err
}

// Spec makes the spec that the definition describes. What is wrong with it is an
// [*Error]. Whoever makes many uses a [Loader].
func (d Definition) Spec() (Spec, error) {
	return new(Loader).Spec(d)
}

// Spec is [Definition.Spec] with the loader's zones.
func (l *Loader) Spec(d Definition) (Spec, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	switch {
	case d.Cron != "":
		return newCron(d, l)
	case d.Every != 0:
		return newEvery(d)
	case d.Solar != "":
		return newSolar(d)
	default:
		return newClocked(d)
	}
}

// check holds the definition to one kind, and to the fields that go with it.
func (d Definition) check() error {
	kinds := 0
	for _, set := range []bool{d.Cron != "", d.Every != 0, d.Solar != "", !d.Clocked.IsZero()} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return wrong("spec", d.kinds(), "exactly one of cron, every, solar and clocked")
	}
	if d.Timezone != "" && d.Cron == "" {
		return wrong("timezone", d.Timezone, "it with cron alone")
	}
	if !d.StartAt.IsZero() && d.Every == 0 {
		return wrong("startAt", momentText(d.StartAt), "it with every alone")
	}
	if d.Solar == "" && (d.Latitude != 0 || d.Longitude != 0 || d.Offset != 0) {
		return wrong("spec", d.kinds(), "latitude, longitude and offset with solar alone")
	}
	return nil
}

func (d Definition) kinds() string {
	var kinds []string
	if d.Cron != "" {
		kinds = append(kinds, "cron")
	}
	if d.Every != 0 {
		kinds = append(kinds, "every")
	}
	if d.Solar != "" {
		kinds = append(kinds, "solar")
	}
	if !d.Clocked.IsZero() {
		kinds = append(kinds, "clocked")
	}
	return strings.Join(kinds, ", ")
}

// Text returns the canonical text of the definition, which [ParseDefinition]
// reads: what means the same has the same. It fails as [Definition.Spec] does.
func (d Definition) Text() (string, error) {
	spec, err := d.Spec()
	if err != nil {
		return "", err
	}
	return spec.String(), nil
}
