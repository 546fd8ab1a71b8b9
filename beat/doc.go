// Package beat fires schedules: it enqueues tasks when their moments come.
//
// An [Entry] says which task, when ([schedule.Definition]), and what becomes of
// moments that were missed. A [Book] keeps the entries of one deployment: the
// command line, the HTTP API and Go programs change them through it. A [Beat]
// fires what is due.
//
// Any number of beats may run. One leads, by a lock with a fencing token; the
// others take over within five seconds of its death. Each due moment of an entry
// fires once, whatever dies, stops or has a wrong clock:
//
//   - What is due is judged by the store's clock alone.
//   - To fire is one step that claims the moment (entry, due) and enqueues its
//     task, where entries and tasks are in one store. Elsewhere the claim leaves a
//     pending record with the task's envelope, which is published, by its id once
//     only, and then marked as done.
//   - The task's id is made of the entry's id and the due moment ([TaskID]).
//   - A beat that was stopped and wakes has an old token, and the store refuses it.
//
// docs/scheduling.md has the rules for operators.
//
// The package imports the root, the contracts, schedule and measure; YAML files
// are read with github.com/goccy/go-yaml.
package beat
