package dev.rekindle.sample;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import jakarta.validation.Valid;
import jakarta.validation.Validator;
import jakarta.validation.constraints.Email;
import jakarta.validation.constraints.Max;
import jakarta.validation.constraints.Min;
import jakarta.validation.constraints.NotBlank;
import jakarta.validation.constraints.NotEmpty;
import jakarta.validation.constraints.Size;
import java.time.Instant;
import java.util.List;
import java.util.UUID;
import org.springframework.stereotype.Service;

/** Prices and confirms orders. */
@Service
public class Orders {
  public record Line(@NotBlank @Size(max = 40) String sku, @Min(1) @Max(1000) int quantity) {}

  public record Order(@NotBlank @Email String customer, @NotEmpty @Size(max = 100) List<@Valid Line> lines, @Size(max = 2000) String note) {}

  public record Confirmation(UUID id, Instant at, String customer, int lines, long total) {}

  private final Catalogue catalogue;
  private final ObjectMapper json;
  private final Validator validator;

  Orders(Catalogue catalogue, ObjectMapper json, Validator validator) {
    this.catalogue = catalogue;
    this.json = json;
    this.validator = validator;
  }

  /** Lines whose product is not known cost nothing. */
  public Confirmation place(Order order) {
    long total = order.lines().stream().mapToLong(l -> catalogue.find(l.sku()).map(p -> (long) p.price() * l.quantity()).orElse(0L)).sum();
    return new Confirmation(UUID.randomUUID(), Instant.now(), order.customer(), order.lines().size(), total);
  }

  /** Takes `count` orders the way requests do: written as JSON, read, validated, placed, answered. Returns the bytes of the answers. */
  public long rehearse(int count) {
    long bytes = 0;
    try {
      for (int i = 0; i < count; i++) {
        List<Line> lines = catalogue.cheapest("tag-" + i % 89, 10).stream().map(p -> new Line(p.sku(), 1 + p.price() % 3)).toList();
        String body = json.writeValueAsString(new Order("customer" + i + "@example.com", lines, "rehearsal"));
        Order order = json.readValue(body, Order.class);
        if (!validator.validate(order).isEmpty()) throw new IllegalStateException("the rehearsed order is not valid: " + body);
        bytes += json.writeValueAsBytes(place(order)).length;
      }
    } catch (JsonProcessingException e) {
      throw new IllegalStateException("the rehearsed order does not survive JSON", e);
    }
    return bytes;
  }
}
