package dev.rekindle.sample;

import jakarta.validation.Valid;
import jakarta.validation.constraints.Max;
import jakarta.validation.constraints.Min;
import java.util.List;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

/** What the service is for. */
@RestController
@RequestMapping("/api")
public class ShopController {
  private final Catalogue catalogue;
  private final Orders orders;

  ShopController(Catalogue catalogue, Orders orders) {
    this.catalogue = catalogue;
    this.orders = orders;
  }

  @GetMapping("/products/{sku}")
  Catalogue.Product product(@PathVariable String sku) {
    return catalogue.find(sku).orElseThrow(() -> new ResponseStatusException(HttpStatus.NOT_FOUND, "no product " + sku));
  }

  @GetMapping("/tags/{tag}")
  List<Catalogue.Product> cheapest(@PathVariable String tag, @RequestParam(defaultValue = "10") @Min(1) @Max(100) int count) {
    return catalogue.cheapest(tag, count);
  }

  @PostMapping("/orders")
  @ResponseStatus(HttpStatus.CREATED)
  Orders.Confirmation order(@RequestBody @Valid Orders.Order order) {
    return orders.place(order);
  }
}
