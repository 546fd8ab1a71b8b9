package connect

import "github.com/stemjobs/stem"

// Unwrap gives access to the other roles of the store of tasks and statuses, or
// of both: the channel to workers.
func (b *Backend) Unwrap() stem.Backend { return b.Backend }
