package redis

// partition is where the task of that id lies.
func (db *DB) partition(id string) int {
	if len(db.tags) == 1 {
		return 0
	}
	return int(crc16(id)) % len(db.tags)
}

// crc16 is the one of Redis Cluster's slots (CCITT, XMODEM).
func crc16(s string) uint16 {
	var crc uint16
	for i := range len(s) {
		crc ^= uint16(s[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// split lists, for each partition, which of the ids are in it.
func (db *DB) split(n int, id func(i int) string) [][]int {
	parts := make([][]int, len(db.tags))
	for i := range n {
		p := db.partition(id(i))
		parts[p] = append(parts[p], i)
	}
	return parts
}
