package coalesce

// SetYield replaces how a group lets other goroutines run.
func (g *Group[In, Out]) SetYield(yield func()) { g.yield = yield }
