package dev.rekindle.sample;

import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.springframework.boot.context.event.ApplicationReadyEvent;
import org.springframework.context.event.EventListener;
import org.springframework.stereotype.Component;

/** The products that the service holds in memory. Read once the service answers: until then its health check says that it is not ready. */
@Component
public class Catalogue {
  public record Product(String sku, String title, int price, String tag) {}

  private volatile Map<String, List<Product>> byTag = Map.of();
  private volatile Map<String, Product> bySku = Map.of();

  @EventListener(ApplicationReadyEvent.class)
  void load() {
    List<Product> products =
        IntStream.range(0, 20_000).mapToObj(i -> new Product("sku-" + i, "Product " + i, i * 7919 % 10_000, "tag-" + i % 89)).toList();
    bySku = products.stream().collect(Collectors.toUnmodifiableMap(Product::sku, p -> p));
    byTag = products.stream().collect(Collectors.groupingBy(Product::tag));
  }

  public boolean ready() {
    return !byTag.isEmpty();
  }

  public Optional<Product> find(String sku) {
    return Optional.ofNullable(bySku.get(sku));
  }

  public List<Product> cheapest(String tag, int count) {
    return byTag.getOrDefault(tag, List.of()).stream().sorted(Comparator.comparingInt(Product::price)).limit(count).toList();
  }
}
