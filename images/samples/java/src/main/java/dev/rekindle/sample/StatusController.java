package dev.rekindle.sample;

import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicLong;
import org.springframework.http.ResponseEntity;
import org.springframework.stereotype.Component;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.servlet.HandlerInterceptor;
import org.springframework.web.servlet.config.annotation.InterceptorRegistry;
import org.springframework.web.servlet.config.annotation.WebMvcConfigurer;

/** What every sample of rekindle answers: who it is, whether it is ready, and work to warm up with. */
@RestController
public class StatusController {
  private final Catalogue catalogue;
  private final Orders orders;
  private final Requests requests;
  private final AtomicLong warmed = new AtomicLong();
  private final SecureRandom random = new SecureRandom();

  StatusController(Catalogue catalogue, Orders orders, Requests requests) {
    this.catalogue = catalogue;
    this.orders = orders;
    this.requests = requests;
  }

  @GetMapping("/healthz")
  ResponseEntity<Map<String, Object>> healthz() {
    return ResponseEntity.status(catalogue.ready() ? 200 : 503).body(Map.of("ready", catalogue.ready()));
  }

  @GetMapping("/")
  Map<String, Object> index() throws IOException {
    Map<String, Object> answer = new LinkedHashMap<>();
    answer.put("host", host());
    answer.put("pid", ProcessHandle.current().pid());
    answer.put("startedAt", ManagementFactory.getRuntimeMXBean().getStartTime());
    answer.put("warmed", warmed.get());
    answer.put("requests", requests.count.get());
    answer.put("java", Runtime.version().toString());
    return answer;
  }

  @GetMapping("/warm")
  Map<String, Object> warm(@RequestParam(defaultValue = "100") int n) {
    long bytes = orders.rehearse(n);
    return Map.of("warmed", warmed.incrementAndGet(), "orders", n, "bytes", bytes);
  }

  @GetMapping("/work")
  Map<String, Object> work(@RequestParam(defaultValue = "30") long ms) throws IOException, InterruptedException {
    Thread.sleep(ms);
    return Map.of("host", host(), "ms", ms);
  }

  @GetMapping("/random")
  Map<String, Object> random() {
    byte[] bytes = new byte[16];
    random.nextBytes(bytes);
    return Map.of("bytes", HexFormat.of().formatHex(bytes), "uuid", UUID.randomUUID());
  }

  /** Asked for at every request, and of the kernel: InetAddress remembers names, and a clone must not answer with the seed's. */
  private static String host() throws IOException {
    return Files.readString(Path.of("/proc/sys/kernel/hostname")).strip();
  }

  @Component
  static class Requests implements HandlerInterceptor, WebMvcConfigurer {
    final AtomicLong count = new AtomicLong();

    @Override
    public boolean preHandle(HttpServletRequest request, HttpServletResponse response, Object handler) {
      count.incrementAndGet();
      return true;
    }

    @Override
    public void addInterceptors(InterceptorRegistry registry) {
      registry.addInterceptor(this);
    }
  }
}
