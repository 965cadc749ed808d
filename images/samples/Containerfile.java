# The java sample as an image: docker build -f images/samples/Containerfile.java -t rekindle-sample-java images/samples/java
FROM docker.io/library/maven:3.9-eclipse-temurin-17 AS build
WORKDIR /src
COPY pom.xml ./
COPY src src
RUN mvn -q -B -ntp package

FROM docker.io/library/eclipse-temurin:17-jre
LABEL org.opencontainers.image.title="rekindle-sample-java" \
      org.opencontainers.image.description="Sample workload of rekindle: a Spring Boot service" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /app
COPY --from=build /src/target/app.jar app.jar
COPY start ./
USER 1000
EXPOSE 8080
CMD ["/app/start"]
