// Package exectask makes tasks of commands: each execution is a process of its
// own, in any language. A tasks file names them (internal/tasksfile).
//
//	tasks:
//	  thumbnail:
//	    exec: ["convert", "-thumbnail", "200x200", "--", "{{.in}}", "{{.out}}"]
//	    timeout: {soft: 30s, hard: 40s}
//	    retry: {max: 5, base: 2s}
//	    concurrency: 4
//
// The command gets its arguments as one line of JSON on its standard input, and
// STEM_TASK_ID, STEM_TASK_NAME and STEM_ATTEMPT in an environment that holds
// little else. What it prints is the result; what it prints to standard error
// goes to the log and, when it fails, into the error. Exit status 0 is success,
// 65 a failure that another attempt cannot help, everything else one that is
// tried again. No shell is involved.
//
// It imports internal/foreign, and internal/runner for the errors that a runner
// understands.
package exectask
