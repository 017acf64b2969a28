// Checks of the store by clickhouse-go over HTTP; prints "N passed, N failed".
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

var passed, failed int

func check(name string, err error) {
	if err != nil {
		failed++
		fmt.Println("FAILED", name, err)
		return
	}
	passed++
}

func want(got, expected any) error {
	if fmt.Sprint(got) != fmt.Sprint(expected) {
		return fmt.Errorf("got %v, not %v", got, expected)
	}
	return nil
}

func session(method clickhouse.CompressionMethod) error {
	background := context.Background()
	name := "tidemill.go_" + fmt.Sprint(time.Now().UnixNano())
	connection, err := clickhouse.Open(&clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{os.Args[1]},
		Auth:        clickhouse.Auth{Database: "tidemill", Username: "default"},
		Compression: &clickhouse.Compression{Method: method, Level: 1},
	})
	if err != nil {
		return err
	}
	defer connection.Close()
	check("ping", connection.Ping(background))
	check("create", connection.Exec(background, "CREATE TABLE "+name+
		" (i Int64, f Float64, s LowCardinality(String), t DateTime64(3, 'UTC'), a Array(UInt8),"+
		" n Nullable(Int32), m Map(String, UInt8)) ENGINE = MergeTree ORDER BY i"))
	batch, err := connection.PrepareBatch(background, "INSERT INTO "+name)
	check("prepare", err)
	if err != nil {
		return nil
	}
	moment := time.Date(2020, 2, 29, 12, 0, 0, 5e6, time.UTC)
	for i := range int64(10_000) {
		err = errors.Join(err, batch.Append(i, float64(i)/2, "word", moment, []uint8{1, 2},
			nil, map[string]uint8{"k": 7}))
	}
	check("append", err)
	check("send", batch.Send())
	var (
		i    int64
		f    float64
		s    string
		t    time.Time
		a    []uint8
		null *int32
		m    map[string]uint8
	)
	check("row", connection.QueryRow(background, "SELECT * FROM "+name+" WHERE i = $1", 9_999).
		Scan(&i, &f, &s, &t, &a, &null, &m))
	check("values", want([]any{i, f, s, t.Equal(moment), a, null == nil, m["k"]},
		[]any{9_999, 4999.5, "word", true, []uint8{1, 2}, true, 7}))
	rows, err := connection.Query(background, "SELECT number FROM numbers(1000000)")
	check("stream", err)
	var number, sum uint64
	for err == nil && rows.Next() {
		err = errors.Join(err, rows.Scan(&number))
		sum += number
	}
	check("million rows", errors.Join(err, want(sum, 499_999_500_000)))
	var exception *clickhouse.Exception
	err = connection.Exec(background, "SELECT nope")
	check("error", want(errors.As(err, &exception) && exception.Code == 47, true))
	check("drop", connection.Exec(background, "DROP TABLE "+name))
	return nil
}

func main() {
	for _, method := range []clickhouse.CompressionMethod{clickhouse.CompressionNone,
		clickhouse.CompressionLZ4, clickhouse.CompressionZSTD, clickhouse.CompressionGZIP} {
		check("session "+method.String(), session(method))
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}
