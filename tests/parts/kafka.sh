#!/usr/bin/env bash
# Apache Kafka for tests: the jars of a broker, from Maven's own repository, into
# .parts/kafka. Prints the folder of the jars. Safe to run again and by several at once.
set -euo pipefail
version=4.1.1
all="${TIDEGATE_PARTS:-$(cd "$(dirname "$0")/../.." && pwd)/.parts}"
parts="$all/kafka/$version"
if [ -f "$parts/complete" ]; then
  echo "$parts/lib"
  exit 0
fi
mkdir -p "$all"
exec 9>"$all/kafka.lock"
flock 9
[ -f "$parts/complete" ] && { echo "$parts/lib"; exit 0; }

if ! command -v java >/dev/null || ! command -v mvn >/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "kafka.sh: java and mvn are missing; install a JRE of version 17 or later, and Maven" >&2
    exit 1
  fi
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends default-jre-headless maven >&2
fi

rm -rf "$parts"
mkdir -p "$parts"
cat >"$parts/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidegate.tests</groupId>
  <artifactId>kafka-broker</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
mvn -q -B -f "$parts/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$parts/lib" >&2
touch "$parts/complete"
echo "$parts/lib"
