// A client of the matrix, as matrix.mjs is: java Matrix.java HOST PORT ROOT.PEM
// KEY HOSTS. HOSTS is the file the machine looks names up in
// (-Djdk.net.hosts.file).
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Matrix {
	static String host, port, key;
	static SSLContext tls;

	static class Lane {
		final String method;
		final HttpClient client = HttpClient.newBuilder().sslContext(tls).build();

		Lane(String method) {
			this.method = method;
		}

		CompletableFuture<String> call() {
			HttpRequest.Builder b = HttpRequest.newBuilder(URI.create("https://" + host + ":" + port + "/x"))
				.timeout(Duration.ofSeconds(50)).header("X-Api-Key", key);
			if (method.equals("POST")) {
				b.header("Idempotency-Key", UUID.randomUUID().toString()).POST(HttpRequest.BodyPublishers.ofString("{\"a\":1}"));
			}
			return client.sendAsync(b.build(), HttpResponse.BodyHandlers.ofString()).handle((res, err) -> {
				if (err != null) {
					return (err.getCause() == null ? err : err.getCause()).toString();
				}
				return res.statusCode() == 200 && res.body().equals(method + " done") ? "" : res.statusCode() + " " + res.body();
			});
		}
	}

	public static void main(String[] args) throws Exception {
		host = args[0];
		port = args[1];
		key = args[3];
		KeyStore roots = KeyStore.getInstance(KeyStore.getDefaultType());
		roots.load(null, null);
		try (FileInputStream in = new FileInputStream(args[2])) {
			roots.setCertificateEntry("root", CertificateFactory.getInstance("X.509").generateCertificate(in));
		}
		TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		trust.init(roots);
		tls = SSLContext.getInstance("TLS");
		tls.init(null, trust.getTrustManagers(), null);
		System.out.println("Java " + System.getProperty("java.version") + " HttpClient");
		BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
		List<Lane> lanes = new ArrayList<>();
		for (String line; (line = lines.readLine()) != null; ) {
			String[] round = line.split(" ");
			Files.writeString(Path.of(args[4]), round[1].equals("-") ? "" : round[1] + " " + host + "\n");
			if (round[0].equals("new")) {
				lanes.clear();
				for (String method : List.of("GET", "POST")) {
					for (int i = 0; i < Integer.parseInt(round[2]); i++) {
						lanes.add(new Lane(method));
					}
				}
			}
			List<CompletableFuture<String>> calls = lanes.stream().map(Lane::call).collect(Collectors.toList());
			System.out.println(calls.stream().map(c -> c.join().replaceAll("\\s+", " ")).collect(Collectors.joining("\t")));
		}
		System.exit(0); // whatever is kept open
	}
}
