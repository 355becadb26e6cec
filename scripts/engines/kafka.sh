# Apache Kafka for scripts/engines.sh, which sources this:
#   engines/kafka-3.9/, engines/kafka-4.1/: libs/*.jar (a server, its storage tool, what writes their logs), bin/kafka (says its version)
# Maven's packages; a server runs on Debian's Java (17 in bookworm, 21 in trixie). Apache-2.0.
# shellcheck shell=bash

# What is pinned: the release, what makes its log go to a file, and the SHA-256 over those of all that comes with it.
KAFKA_39=(3.9.1 org.slf4j:slf4j-reload4j:1.7.36 4a7187d76d86960c8cc101e20d6701170ab2b03708681e112fea247f3bd8e3a1)
KAFKA_41=(4.1.0 org.apache.logging.log4j:log4j-slf4j-impl:2.24.3 ed221617419d07bb7659b744f3b4c53389f757df65c937c410a73b099b49d884)
component kafka-39 kafka-3.9 "kafka ${KAFKA_39[*]}"
component kafka-41 kafka-4.1 "kafka ${KAFKA_41[*]}"

install_kafka_39() { install_kafka kafka-3.9 kafka-39 "${KAFKA_39[@]}"; }
install_kafka_41() { install_kafka kafka-4.1 kafka-41 "${KAFKA_41[@]}"; }

# install_kafka FOLDER NAME RELEASE LOGGING SHA256
install_kafka() {
    local folder=$1 name=$2 release=$3 group artifact version sum expected=$5
    IFS=: read -r group artifact version <<<"$4"
    say "$folder: downloading $release (46 MB)"
    mkdir -p "$SCRATCH/$folder-maven" "$SCRATCH/$folder"
    cat >"$SCRATCH/$folder-maven/pom.xml" <<EOF
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>holdfast</groupId><artifactId>$folder</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$release</version></dependency>
    <dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>
  </dependencies>
</project>
EOF
    (cd "$SCRATCH/$folder-maven" && mvn -B -q -Dstyle.color=never "-Dmaven.repo.local=$SCRATCH/maven" dependency:copy-dependencies \
        -DincludeScope=runtime "-DoutputDirectory=$SCRATCH/$folder/libs") </dev/null ||
        die "Maven could not fetch Kafka $release" "look at its output; set its mirror in ~/.m2/settings.xml where you need one"
    sum=$(cd "$SCRATCH/$folder/libs" && sha256sum -- *.jar | sha256sum | cut -d' ' -f1)
    [ "$sum" = "$expected" ] || die "Kafka $release came as $sum, and not as $expected" "do not use it; tell the project"
    mkdir "$SCRATCH/$folder/bin"
    # shellcheck disable=SC2016 # for the program itself
    printf '%s\n' '#!/bin/sh' 'exec java -Xmx64m -cp "$(dirname "$0")/../libs/*" kafka.Kafka "$@"' >"$SCRATCH/$folder/bin/kafka"
    chmod 0755 "$SCRATCH/$folder/bin/kafka"
    finish "$SCRATCH/$folder" "$ENGINES/$folder" "${STAMP[$name]}" bin/kafka --version
}
