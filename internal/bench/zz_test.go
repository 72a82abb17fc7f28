package bench
import ("testing";"time";"fmt";"os"
"github.com/powerd/powerd/internal/daemon")
func TestZZ(t *testing.T){
 c := newCase(t, os.Getenv("P"), os.Getenv("L"), map[string]float64{"":0,"30":0.3}[os.Getenv("S")], 63*time.Second, 1)
 c.Warm = 3*time.Second
 _,_,err := Daemon(t.Context(), c, standard(t), false, func(s *daemon.Snapshot){
  fmt.Print(s.Tick, " ")
  for _, b := range s.Plan.Bands { fmt.Printf("[%v %v-%v c%v]", b.CPUs, b.Floor, b.Ceiling, b.CriticalKHz/1000) }
  for _, ct := range s.Containers { fmt.Printf(" %s:%.2f/%s/d%.2f", ct.ID[7:], ct.CPUBound, ct.Bound[:1], ct.Demand) }
  fmt.Println()
 })
 if err != nil { t.Fatal(err) }
}
