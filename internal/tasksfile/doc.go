// Package tasksfile reads tasks files, which make tasks of what is not Go: of
// commands (internal/exectask) and of HTTP servers (internal/httptask).
//
//	tasks:
//	  thumbnail:
//	    exec: ["convert", "-thumbnail", "200x200", "--", "{{.in}}", "{{.out}}"]
//	    timeout: {soft: 30s, hard: 40s}
//	    retry: {max: 5, base: 2s}
//	    concurrency: 4
//	  notify:
//	    http: {url: "https://hooks.example.org/notify"}
//
// What is wrong with a file is said with its line. The file is bounded before
// a YAML parser sees it (yaml.go); keys that are not known are refused.
package tasksfile
