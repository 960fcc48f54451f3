package lab

import "testing"

// CgroupMountForTest is where cgroup2 is mounted.
func CgroupMountForTest(t *testing.T) string {
	t.Helper()
	dir, err := cgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
