// Package stem runs work in the background. A program enqueues a task, a worker
// somewhere executes it at least once, and everyone can see what became of it.
//
// A task is declared once, with the types of its argument and its result, and
// apart from its handler, so that producers import the declaration alone:
//
//	var Resize = stem.NewTask[ResizeArgs, ResizeResult]("image.resize", stem.MaxRetries(5))
//
// A [Client] on a backend enqueues and looks up:
//
//	client, err := stem.NewClient(memory.New(), stem.ClientOptions{})
//	h, err := Resize.Enqueue(ctx, client, ResizeArgs{URL: u}, stem.In(5*time.Minute))
//	res, err := h.Wait(ctx)
//
// A [Worker] executes:
//
//	w := stem.NewWorker(client, stem.WorkerOptions{Queues: stem.Weights{"critical": 6, "default": 3}})
//	err = w.Handle(Resize.With(resize))
//	err = w.Run(ctx)
//
// The promises: no task is lost, and none is acknowledged before its outcome is
// stored. A handler therefore may run more than once, and should be safe to
// repeat; a worker that lost a task's lease can no longer write its outcome.
package stem
