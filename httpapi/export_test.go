package httpapi

// TableRow is a row of the table of routes, as tests see it.
type TableRow struct {
	Method, Path string
	Role         Role
	Body         bool
	Stream       bool
}

// Table is the table of routes.
func Table() []TableRow {
	var rows []TableRow
	for _, rt := range routes() {
		rows = append(rows, TableRow{rt.method, rt.path, rt.role, rt.body != nil, rt.stream})
	}
	return rows
}

// ProblemTypes lists the types of problems with their status.
func ProblemTypes() map[string]int {
	types := map[string]int{}
	for _, k := range kinds() {
		types[problemPath+k.slug] = k.status
	}
	return types
}
