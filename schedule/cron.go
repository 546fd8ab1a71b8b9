package schedule

const wantCron = "five fields (minute, hour, day of month, month, day of week), six with the second before them, or a name such as @daily"

func newCron(d Definition, _ *Loader) (Spec, error) {
	return nil, wrong("cron", d.Cron, wantCron)
}
