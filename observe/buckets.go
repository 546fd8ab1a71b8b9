package observe

// Buckets are the upper bounds of histograms, in seconds: from a commit of the
// store to the longest usual job.
func Buckets() []float64 {
	return []float64{
		0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
		1, 2.5, 5, 10, 30, 60, 120, 300, 600,
	}
}
