// Checks of the store by ClickHouse's Java client and JDBC driver; prints "N passed, N failed".

import com.clickhouse.client.api.Client;
import com.clickhouse.client.api.ServerException;
import com.clickhouse.client.api.data_formats.ClickHouseBinaryFormatReader;
import com.clickhouse.client.api.insert.InsertSettings;
import com.clickhouse.client.api.query.GenericRecord;
import com.clickhouse.client.api.query.QueryResponse;
import com.clickhouse.client.api.query.QuerySettings;
import com.clickhouse.data.ClickHouseFormat;
import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.time.LocalDateTime;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

public class Checks {
    interface Work {
        void run() throws Exception;
    }

    static int passed, failed;
    static final String ENDLESS = "SELECT sum(sin(number)) FROM numbers(1000000000000)";

    static void check(String name, Work work) {
        try {
            work.run();
            passed++;
        } catch (Throwable cause) {
            failed++;
            System.out.println("FAILED " + name + ": " + root(cause));
        }
    }

    static Throwable root(Throwable cause) {
        return cause.getCause() == null ? cause : root(cause.getCause());
    }

    static void want(Object got, Object expected) {
        if (!String.valueOf(got).equals(String.valueOf(expected))) {
            throw new AssertionError("got " + got + ", not " + expected);
        }
    }

    static String table() {
        return "java_" + UUID.randomUUID().toString().replace("-", "");
    }

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        for (boolean server : new boolean[] {false, true}) {
            for (boolean http : new boolean[] {false, true}) {
                Client.Builder builder = new Client.Builder().addEndpoint(url).setUsername("default")
                    .setPassword("").setDefaultDatabase("tidemill").compressServerResponse(server)
                    .compressClientRequest(server).useHttpCompression(http);
                try (Client client = builder.build()) {
                    client(client, "client server=" + server + " http=" + http + " ");
                }
            }
        }
        jdbc(url);
        System.out.printf("%d passed, %d failed%n", passed, failed);
        System.exit(failed > 0 ? 1 : 0);
    }

    static void client(Client client, String about) {
        String table = table();
        check(about + "ping", () -> want(client.ping(), true));
        check(about + "create", () -> client.execute("CREATE TABLE " + table
            + " (i Int64, f Float64, s LowCardinality(String), t DateTime64(3, 'UTC'), a Array(UInt8),"
            + " n Nullable(Int32), m Map(String, UInt8)) ENGINE = MergeTree ORDER BY i").get());
        check(about + "insert rows as text", () -> {
            StringBuilder rows = new StringBuilder();
            for (int i = 0; i < 10_000; i++) {
                rows.append(i).append('\t').append(i / 2.0)
                    .append("\tword\t2020-02-29 12:00:00.005\t[1,2]\t\\N\t{'k':7}\n");
            }
            byte[] bytes = rows.toString().getBytes(StandardCharsets.UTF_8);
            long written = client.insert(table, new ByteArrayInputStream(bytes),
                ClickHouseFormat.TabSeparated, new InsertSettings()).get().getWrittenRows();
            want(written, 10_000);
        });
        check(about + "typed reads", () -> {
            List<GenericRecord> rows = client.queryAll("SELECT * FROM " + table + " WHERE i = 9999");
            GenericRecord row = rows.get(0);
            want(rows.size(), 1);
            want(row.getLong("i"), 9999);
            want(row.getDouble("f"), 4999.5);
            want(row.getString("s"), "word");
            want(row.getLocalDateTime("t"), LocalDateTime.of(2020, 2, 29, 12, 0, 0, 5_000_000));
            want(row.getList("a"), "[1, 2]");
            want(row.hasValue("n"), false);
            want(row.getObject("m"), "{k=7}");
        });
        check(about + "parameters", () -> {
            List<GenericRecord> rows = client.queryAll(
                "SELECT {word:String} AS w, count() AS c FROM " + table + " WHERE i < {top:UInt64}",
                Map.of("word", "it's a word", "top", 7));
            want(rows.get(0).getString("w"), "it's a word");
            want(rows.get(0).getLong("c"), 7);
        });
        check(about + "a million rows", () -> {
            QuerySettings settings = new QuerySettings()
                .setFormat(ClickHouseFormat.RowBinaryWithNamesAndTypes);
            try (QueryResponse response =
                    client.query("SELECT number FROM numbers(1000000)", settings).get()) {
                ClickHouseBinaryFormatReader reader = client.newBinaryFormatReader(response);
                long sum = 0;
                while (reader.next() != null) {
                    sum += reader.getLong(1);
                }
                want(sum, 499_999_500_000L);
            }
        });
        check(about + "schema", () -> want(client.getTableSchema(table).getColumns().size(), 7));
        check(about + "an error has its code", () -> {
            try {
                client.queryAll("SELECT nope");
                throw new AssertionError("no error");
            } catch (RuntimeException error) {
                want(((ServerException) root(error)).getCode(), 47);
            }
        });
        check(about + "a summary", () -> {
            try (QueryResponse response = client.query("SELECT * FROM " + table).get()) {
                want(response.getReadRows(), 10_000);
                want(response.getQueryId().isEmpty(), false);
            }
        });
        check(about + "drop", () -> client.execute("DROP TABLE " + table).get());
    }

    static void jdbc(String url) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", "default");
        String address = url.replace("http://", "jdbc:clickhouse:http://") + "/tidemill";
        try (Connection connection = DriverManager.getConnection(address, properties);
                Connection other = DriverManager.getConnection(address, properties)) {
            String table = table();
            check("jdbc valid", () -> want(connection.isValid(5), true));
            check("jdbc create", () -> {
                try (Statement statement = connection.createStatement()) {
                    statement.execute("CREATE TABLE " + table + " (i Int64, s String, t DateTime('UTC'),"
                        + " n Nullable(Float64)) ENGINE = MergeTree ORDER BY i");
                }
            });
            check("jdbc batch", () -> {
                String sql = "INSERT INTO " + table + " (i, s, t, n) VALUES (?, ?, ?, ?)";
                try (PreparedStatement statement = connection.prepareStatement(sql)) {
                    for (int i = 0; i < 1_000; i++) {
                        statement.setLong(1, i);
                        statement.setString(2, "it's \\ " + i);
                        statement.setTimestamp(3, Timestamp.valueOf("2020-02-29 12:00:00"));
                        statement.setObject(4, i % 2 == 0 ? null : i / 4.0);
                        statement.addBatch();
                    }
                    want(statement.executeBatch().length, 1_000);
                }
            });
            check("jdbc typed reads", () -> {
                String sql = "SELECT i, s, t, n FROM " + table + " WHERE i IN (?, ?) ORDER BY i";
                try (PreparedStatement statement = connection.prepareStatement(sql)) {
                    statement.setInt(1, 6);
                    statement.setInt(2, 7);
                    ResultSet rows = statement.executeQuery();
                    want(rows.next(), true);
                    want(rows.getLong(1), 6);
                    want(rows.getString("s"), "it's \\ 6");
                    rows.getDouble("n");
                    want(rows.wasNull(), true);
                    want(rows.next(), true);
                    want(rows.getDouble("n"), 1.75);
                    want(rows.getTimestamp("t") != null, true);
                    want(rows.next(), false);
                }
            });
            check("jdbc columns", () -> {
                ResultSet columns = connection.getMetaData().getColumns(null, "tidemill", table, "%");
                int count = 0;
                while (columns.next()) {
                    count++;
                }
                want(count, 4);
                want(connection.getMetaData().getTables(null, "tidemill", table, null).next(), true);
            });
            check("jdbc error", () -> {
                try (Statement statement = connection.createStatement()) {
                    statement.executeQuery("SELECT nope");
                    throw new AssertionError("no error");
                } catch (SQLException error) {
                    want(error.getErrorCode(), 47);
                }
            });
            check("jdbc cancel", () -> cancel(connection, other));
            check("jdbc time limit", () -> {
                try (Statement statement = connection.createStatement()) {
                    statement.executeQuery(ENDLESS + " SETTINGS max_execution_time = 1");
                    throw new AssertionError("no error");
                } catch (SQLException error) {
                    want(error.getErrorCode(), 159);
                }
            });
            check("jdbc drop", () -> {
                try (Statement statement = connection.createStatement()) {
                    statement.execute("DROP TABLE " + table);
                }
            });
        }
    }

    /** Statement.cancel from another thread ends the query in the engine. */
    static void cancel(Connection connection, Connection other) throws Exception {
        String mark = table();
        Statement statement = connection.createStatement();
        Thread thread = new Thread(() -> {
            try {
                statement.executeQuery(ENDLESS + " WHERE '" + mark + "' != ''");
            } catch (SQLException expected) {
                // It was cancelled.
            }
        });
        thread.start();
        waitUntilRunning(other, mark, 1);
        statement.cancel();
        thread.join(TimeUnit.SECONDS.toMillis(30));
        want(thread.isAlive(), false);
        waitUntilRunning(other, mark, 0);
    }

    static void waitUntilRunning(Connection other, String mark, int count) throws Exception {
        String sql = "SELECT countIf(query LIKE '%" + mark + "%' AND query NOT LIKE '%processes%')"
            + " FROM system.processes";
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        try (Statement statement = other.createStatement()) {
            while (true) {
                ResultSet rows = statement.executeQuery(sql);
                rows.next();
                if (rows.getInt(1) == count) {
                    return;
                }
                want(System.nanoTime() < deadline, true);
                Thread.sleep(50);
            }
        }
    }
}
