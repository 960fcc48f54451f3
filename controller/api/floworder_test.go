package api

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"weft/controller/flowstore"
	"weft/model"
)

// What sums can be sorted by is said in three places, of one mind.
func TestOrdersOfSums(t *testing.T) {
	f, _ := reflect.TypeFor[flowSumsInput]().FieldByName("Order")
	asked := strings.Split(f.Tag.Get("enum"), ",")
	slices.Sort(asked)
	if !slices.Equal(asked, model.FlowOrders) {
		t.Errorf("the API takes %v, a FlowQuery %v", asked, model.FlowOrders)
	}
	if stored := flowstore.Orders(); !slices.Equal(stored, model.FlowOrders) {
		t.Errorf("the store sorts by %v, a FlowQuery by %v", stored, model.FlowOrders)
	}
}
