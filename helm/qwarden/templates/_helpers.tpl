{{/* The release's name, with the chart's name in it. Cut so that every suffix below fits in 63. */}}
{{- define "qwarden.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 32 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* What never changes for one component: (list . COMPONENT). */}}
{{- define "qwarden.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* All labels of one component's objects: (list . COMPONENT). Pods get the ones above alone, so that
a new chart version that changes nothing in them restarts none. */}}
{{- define "qwarden.labels" -}}
{{- $root := index . 0 -}}
{{ include "qwarden.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* One image, by digest or by tag: (list . NAME DIGEST). */}}
{{- define "qwarden.image" -}}
{{- $image := (index . 0).Values.image -}}
{{- $name := printf "%s/%s" $image.registry (index . 1) -}}
{{- with index . 2 -}}
{{- printf "%s@%s" $name . -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default (index . 0).Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "qwarden.servicesImage" -}}
{{- include "qwarden.image" (list . "qwarden" .Values.image.servicesDigest) -}}
{{- end -}}

{{- define "qwarden.tritonImage" -}}
{{- include "qwarden.image" (list . "qwarden-triton" .Values.image.tritonDigest) -}}
{{- end -}}

{{/*
The part of a pod's spec that all pods share. Service links are off because Kubernetes would set
QWARDEN_TRITON_PORT and the like for a release named qwarden, and the services refuse settings that
they do not know.
*/}}
{{- define "qwarden.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "qwarden.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Annotations by which Prometheus finds a pod: (list . PORT). None where something else says it, or a
Prometheus that reads both would count everything twice. */}}
{{- define "qwarden.scrapeAnnotations" -}}
{{- with (index . 0).Values.monitoring -}}
{{- if not (or .serviceMonitor.enabled .ownScraping) -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ index $ 1 | quote }}
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}
{{- end -}}

{{/* One environment variable out of an existing Secret: (list VARIABLE SECRET KEY). */}}
{{- define "qwarden.secretEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
{{- end -}}

{{/* Fails where a further setting is one that the chart sets: (list OWN FURTHER VALUE), where OWN is what
the chart sets and VALUE the name of the value that FURTHER comes from. The services read the names of
settings in any case. */}}
{{- define "qwarden.checkEnv" -}}
{{- $names := dict -}}
{{- range fromYamlArray (index . 0) -}}
{{- $_ := set $names (upper .name) true -}}
{{- end -}}
{{- $value := index . 2 -}}
{{- range index . 1 -}}
{{- if hasKey $names (upper .name) -}}
{{- fail (printf "%s names %s, which the chart sets itself or which stands there twice: give the value that it comes from, or leave it out." $value .name) -}}
{{- end -}}
{{- $_ := set $names (upper .name) true -}}
{{- end -}}
{{- end -}}

{{/* What a component's environment is in the end: (list OWN FURTHER). */}}
{{- define "qwarden.envWith" -}}
{{- index . 0 -}}
{{- with index . 1 }}
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{/* Where a pod may run, and before whom: (list . COMPONENT VALUES). Pods are spread where it can be done:
a cluster with one node, or a zone without room, is no reason to run fewer; and a new version is spread
for itself, without the pods that it takes the place of. */}}
{{- define "qwarden.placing" -}}
{{- $of := index . 2 -}}
serviceAccountName: {{ include "qwarden.fullname" (index . 0) }}-{{ index . 1 }}
{{- with $of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $of.topologySpread }}
topologySpreadConstraints:
  {{- $selector := include "qwarden.selectorLabels" . }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The number of a component's pods: (list . COMPONENT VALUES). Where something scales it, as many as
there are: an upgrade that took the number out of the Deployment would have Kubernetes make it 1. */}}
{{- define "qwarden.replicas" -}}
{{- $root := index . 0 -}}
{{- with index . 2 -}}
{{- if not .autoscaling.enabled -}}
replicas: {{ int .replicas }}
{{- else -}}
{{- with lookup "apps/v1" "Deployment" $root.Release.Namespace (printf "%s-%s" (include "qwarden.fullname" $root) (index $ 1)) -}}
replicas: {{ int .spec.replicas }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Seconds from SIGTERM to SIGKILL of a service: (list DRAIN PRESTOP CLOSE). It drains for DRAIN seconds,
lets go of its partitions (REVOKE_S, 5), says goodbye to the broker (3), and closes what it holds
(CLOSE: 2 for the last writes to the cache; 7 for the review service's outbox and duties); 5 more are
for a machine that is slow just then.
*/}}
{{- define "qwarden.grace" -}}
{{- add (index . 0) (index . 1) 5 3 (index . 2) 5 -}}
{{- end -}}

{{/*
A pod that is going away is still asked for a moment: whoever routes to it hears of it later than the
pod does. Browsers come through an ingress or kube-proxy, which know within a second or two. Triton's
clients ask the name anew every 10 s (QWARDEN_STREAM_GUARD__LOOK_S), and a cluster's DNS keeps an
answer for 5 s.
*/}}
{{- define "qwarden.reviewPreStop" -}}5{{- end -}}
{{- define "qwarden.tritonPreStop" -}}15{{- end -}}

{{- define "qwarden.preStop" -}}
preStop:
  exec:
    command: [sleep, {{ . | quote }}]
{{- end -}}

{{/* Probes of the services. */}}
{{- define "qwarden.servicesProbes" -}}
# Up: two minutes to import, read the policies and listen.
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 24
# Its loops turn. Nothing outside the pod is asked: a restart would mend no outage.
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
# It has what it cannot do without.
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* "yes" where Kafka asks for a user. */}}
{{- define "qwarden.kafkaHasSasl" -}}
{{- if hasPrefix "SASL_" .Values.kafka.securityProtocol -}}yes{{- end -}}
{{- end -}}

{{/* "yes" where that user shows a token. */}}
{{- define "qwarden.kafkaHasOauth" -}}
{{- if and (include "qwarden.kafkaHasSasl" .) (eq .Values.kafka.sasl.mechanism "OAUTHBEARER") -}}yes{{- end -}}
{{- end -}}

{{/* "yes" where the connection to a peer is encrypted, or may be: (list . PEER). */}}
{{- define "qwarden.isEncrypted" -}}
{{- $values := (index . 0).Values -}}
{{- $peer := index . 1 -}}
{{- if eq $peer "kafka" -}}
{{- if hasSuffix "SSL" $values.kafka.securityProtocol -}}yes{{- end -}}
{{- else if eq $peer "redis" -}}
{{- if or $values.redis.urlSecret.name (hasPrefix "rediss" $values.redis.url) -}}yes{{- end -}}
{{- else if eq $peer "triton" -}}
{{- if $values.triton.tls.enabled -}}yes{{- end -}}
{{- else if eq $peer "registry" -}}
{{- if hasPrefix "https://" $values.schemaRegistry.url -}}yes{{- end -}}
{{- else if eq $peer "database" -}}
{{- if $values.review.enabled -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The files by which a peer is known, and by which it knows us: (list . PEER). YAML with `env`, `mounts`
and `volumes`; lists that are empty where the values name no Secret.
*/}}
{{- define "qwarden.filesOf" -}}
{{- $values := (index . 0).Values -}}
{{- $peer := index . 1 -}}
{{- $none := dict "secretName" "" -}}
{{- $of := index (dict
      "kafka" (list "QWARDEN_KAFKA__" $values.kafka.ca $values.kafka.clientCertificate)
      "redis" (list "QWARDEN_REDIS__" $values.redis.ca $values.redis.clientCertificate)
      "triton" (list "QWARDEN_TRITON__" $values.triton.tls.ca $values.triton.tls.clientCertificate)
      "registry" (list "QWARDEN_REGISTRY__" $values.schemaRegistry.ca $none)
      "database" (list "QWARDEN_REVIEW__DATABASE_" $values.review.databaseCa $values.review.databaseClientCertificate)
    ) $peer -}}
{{- $env := list -}}
{{- $mounts := list -}}
{{- $volumes := list -}}
{{- if include "qwarden.isEncrypted" . -}}
{{- with index $of 1 -}}
{{- if .secretName -}}
{{- $name := printf "%s-ca" $peer -}}
{{- $env = append $env (dict "name" (print (index $of 0) "CA_FILE") "value" (printf "/etc/qwarden/%s/ca.crt" $name)) -}}
{{- $mounts = append $mounts (dict "name" $name "mountPath" (printf "/etc/qwarden/%s" $name) "readOnly" true) -}}
{{- $volumes = append $volumes (dict "name" $name "secret" (dict "secretName" .secretName "items" (list (dict "key" .secretKey "path" "ca.crt")))) -}}
{{- end -}}
{{- end -}}
{{- with index $of 2 -}}
{{- if .secretName -}}
{{- $name := printf "%s-client" $peer -}}
{{- $env = append $env (dict "name" (print (index $of 0) "CERTIFICATE_FILE") "value" (printf "/etc/qwarden/%s/tls.crt" $name)) -}}
{{- $env = append $env (dict "name" (print (index $of 0) "KEY_FILE") "value" (printf "/etc/qwarden/%s/tls.key" $name)) -}}
{{- $mounts = append $mounts (dict "name" $name "mountPath" (printf "/etc/qwarden/%s" $name) "readOnly" true) -}}
{{- $volumes = append $volumes (dict "name" $name "secret" (dict "secretName" .secretName "defaultMode" 288 "items" (list (dict "key" .certKey "path" "tls.crt") (dict "key" .keyKey "path" "tls.key")))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "env" $env "mounts" $mounts "volumes" $volumes) -}}
{{- end -}}

{{/* One list of qwarden.filesOf, over several peers: (list . LIST PEER...). */}}
{{- define "qwarden.files" -}}
{{- $root := index . 0 -}}
{{- $which := index . 1 -}}
{{- $all := list -}}
{{- range slice . 2 -}}
{{- $all = concat $all (index (include "qwarden.filesOf" (list $root .) | fromYaml) $which) -}}
{{- end -}}
{{- with $all -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* The authorities of web servers. httpx, OpenSSL's own defaults (urllib) and the hub's client read the
first variable, requests (the exporter of traces) the second. */}}
{{- define "qwarden.trustedEnv" -}}
{{- if .Values.trustedCa.secretName -}}
- name: SSL_CERT_FILE
  value: /etc/qwarden/trusted-ca/ca.crt
- name: REQUESTS_CA_BUNDLE
  value: /etc/qwarden/trusted-ca/ca.crt
{{- end -}}
{{- end -}}

{{- define "qwarden.trustedMount" -}}
{{- if .Values.trustedCa.secretName -}}
- name: trusted-ca
  mountPath: /etc/qwarden/trusted-ca
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "qwarden.trustedVolume" -}}
{{- with .Values.trustedCa -}}
{{- if .secretName -}}
- name: trusted-ca
  secret:
    secretName: {{ .secretName }}
    items:
      - key: {{ .secretKey }}
        path: ca.crt
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What every command of the services image needs: the content key and Kafka. */}}
{{- define "qwarden.servicesEnv" -}}
{{- with .Values.contentKey }}
{{- include "qwarden.secretEnv" (list "QWARDEN_CONTENT_KEY" .secretName .secretKey) }}
{{- end }}
{{- with .Values.kafka }}
- name: QWARDEN_KAFKA__BOOTSTRAP_SERVERS
  value: {{ .bootstrapServers | quote }}
- name: QWARDEN_KAFKA__SECURITY_PROTOCOL
  value: {{ .securityProtocol }}
{{- if include "qwarden.kafkaHasSasl" $ }}
- name: QWARDEN_KAFKA__SASL_MECHANISM
  value: {{ .sasl.mechanism }}
{{- if include "qwarden.kafkaHasOauth" $ }}
- name: QWARDEN_KAFKA__OAUTH_TOKEN_URL
  value: {{ .oauth.tokenUrl | quote }}
{{ include "qwarden.secretEnv" (list "QWARDEN_KAFKA__OAUTH_CLIENT_ID" .oauth.secretName .oauth.clientIdKey) }}
{{ include "qwarden.secretEnv" (list "QWARDEN_KAFKA__OAUTH_CLIENT_SECRET" .oauth.secretName .oauth.clientSecretKey) }}
{{- with .oauth.scope }}
- name: QWARDEN_KAFKA__OAUTH_SCOPE
  value: {{ . | quote }}
{{- end }}
{{- else }}
{{ include "qwarden.secretEnv" (list "QWARDEN_KAFKA__SASL_USERNAME" .sasl.secretName .sasl.usernameKey) }}
{{ include "qwarden.secretEnv" (list "QWARDEN_KAFKA__SASL_PASSWORD" .sasl.secretName .sasl.passwordKey) }}
{{- end }}
{{- end }}
{{- end }}
{{- with include "qwarden.files" (list . "env" "kafka") }}
{{ . }}
{{- end }}
{{- with include "qwarden.trustedEnv" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* Mounts of the services image: a small /tmp beside the read-only root, and Kafka's files. */}}
{{- define "qwarden.servicesMounts" -}}
- name: tmp
  mountPath: /tmp
{{- with include "qwarden.files" (list . "mounts" "kafka") }}
{{ . }}
{{- end }}
{{- with include "qwarden.trustedMount" . }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "qwarden.servicesVolumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with include "qwarden.files" (list . "volumes" "kafka") }}
{{ . }}
{{- end }}
{{- with include "qwarden.trustedVolume" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* What a service that runs for ever is told beside that: where it listens, and where it reports. */}}
{{- define "qwarden.servingEnv" -}}
- name: QWARDEN_HTTP__HOST
  value: 0.0.0.0
- name: QWARDEN_HTTP__PORT
  value: "8080"
{{- with .Values.monitoring.otlpEndpoint }}
- name: QWARDEN_TELEMETRY__OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if include "qwarden.policyMount" . }}
- name: QWARDEN_POLICY__PATH
  value: /etc/qwarden/policy
{{- end }}
{{- end -}}

{{/* The drain budgets of a service, which its grace period is made of: (list SERVICE DRAIN). */}}
{{- define "qwarden.drainEnv" -}}
- name: QWARDEN_{{ index . 0 }}__DRAIN_S
  value: {{ index . 1 | quote }}
- name: QWARDEN_{{ index . 0 }}__REVOKE_S
  value: "5"
{{- end -}}

{{/* The shared cache; empty where there is none. */}}
{{- define "qwarden.redisEnv" -}}
{{- with .Values.redis -}}
{{- if .urlSecret.name -}}
{{- include "qwarden.secretEnv" (list "QWARDEN_REDIS__URL" .urlSecret.name .urlSecret.key) -}}
{{- else if .url -}}
- name: QWARDEN_REDIS__URL
  value: {{ .url | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What asks for a user at the schema registry. */}}
{{- define "qwarden.registryEnv" -}}
{{- with .Values.schemaRegistry -}}
{{- if .url -}}
- name: QWARDEN_REGISTRY__URL
  value: {{ .url | quote }}
{{- if .user.secretName }}
{{ include "qwarden.secretEnv" (list "QWARDEN_REGISTRY__USERNAME" .user.secretName .user.usernameKey) }}
{{ include "qwarden.secretEnv" (list "QWARDEN_REGISTRY__PASSWORD" .user.secretName .user.passwordKey) }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The workloads of Triton as a YAML list, each with all of its values: what it does not say itself
is in triton.defaults. */}}
{{- define "qwarden.tritonWorkloads" -}}
{{- $all := list -}}
{{- range .Values.triton.workloads -}}
{{- $whole := deepCopy . -}}
{{- range $key, $value := $.Values.triton.defaults -}}
{{- if not (hasKey $whole $key) -}}
{{- $_ := set $whole $key $value -}}
{{- else if has $key (list "autoscaling" "podDisruptionBudget") -}}
{{- /* Not merge, which takes a false for one that is not given. */ -}}
{{- $_ := set $whole $key (mergeOverwrite (deepCopy $value) (index $whole $key)) -}}
{{- end -}}
{{- end -}}
{{- $all = append $all $whole -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* The name of the workload that has a model and is asked for it: (list . KIND), KIND is gen or
stream. Empty where none of them has it. */}}
{{- define "qwarden.tritonUsed" -}}
{{- $kind := index . 1 -}}
{{- $values := (index . 0).Values -}}
{{- $found := index $values.triton.use $kind -}}
{{- range $values.triton.workloads -}}
{{- if and (not $found) (hasKey .models $kind) -}}
{{- $found = .name -}}
{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* host:port (gRPC) where a model is asked: (list . KIND); a workload's name resolves to every pod
of it that is ready. */}}
{{- define "qwarden.tritonAddress" -}}
{{- $root := index . 0 -}}
{{- $kind := index . 1 -}}
{{- $triton := $root.Values.triton -}}
{{- with include "qwarden.tritonUsed" . -}}
{{- printf "%s-triton-%s.%s.svc:8001" (include "qwarden.fullname" $root) . $root.Release.Namespace -}}
{{- else -}}
{{- if eq $kind "stream" -}}
{{- $triton.streamAddress | default $triton.address -}}
{{- else -}}
{{- $triton.address -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* How the guard is reached. */}}
{{- define "qwarden.tritonEnv" -}}
- name: QWARDEN_TRITON__URL
  value: {{ include "qwarden.tritonAddress" (list . "gen") | quote }}
{{- if .Values.triton.tls.enabled }}
- name: QWARDEN_TRITON__TLS
  value: "true"
{{- end }}
{{- end -}}

{{/* The most seconds that any of the workloads may take to start; without one, half an hour for those
elsewhere. */}}
{{- define "qwarden.guardStartSeconds" -}}
{{- $most := 0 -}}
{{- range fromYamlArray (include "qwarden.tritonWorkloads" .) -}}
{{- $most = max $most (int .startupSeconds) -}}
{{- end -}}
{{- $most | default 1800 -}}
{{- end -}}

{{/* The folders of QWARDEN_POLICY__PATH, each with the value that holds its files. */}}
{{- define "qwarden.policyFolders" -}}
policies: policies
tenants: tenants
topics: topicFiles
{{- end -}}

{{/* Policy, tenant and topic files as ConfigMap entries. A key there holds no slash: the volumes'
items put FOLDER.NAME.yaml at NAME.yaml of that folder. Empty where the values name none. */}}
{{- define "qwarden.policyFiles" -}}
{{- $files := dict -}}
{{- range $folder, $value := include "qwarden.policyFolders" . | fromYaml -}}
{{- range $name, $text := index $.Values $value -}}
{{- $_ := set $files (printf "%s.%s.yaml" $folder $name) $text -}}
{{- end -}}
{{- end -}}
{{- if $files -}}
{{- toYaml $files -}}
{{- end -}}
{{- end -}}

{{/* One mount for each folder that has files. */}}
{{- define "qwarden.policyMount" -}}
{{- $mounts := list -}}
{{- range $folder, $value := include "qwarden.policyFolders" . | fromYaml -}}
{{- if or (index $.Values $value) (index $.Values.existingPolicyConfigMaps $folder) -}}
{{- $mounts = append $mounts (dict "name" (printf "policy-%s" $folder) "mountPath" (printf "/etc/qwarden/policy/%s" $folder) "readOnly" true) -}}
{{- end -}}
{{- end -}}
{{- with $mounts -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "qwarden.policyVolume" -}}
{{- range $folder, $value := include "qwarden.policyFolders" . | fromYaml }}
{{- $own := index $.Values $value }}
{{- $existing := index $.Values.existingPolicyConfigMaps $folder }}
{{- if or $own $existing }}
- name: policy-{{ $folder }}
  configMap:
    name: {{ $existing | default (printf "%s-policies" (include "qwarden.fullname" $)) }}
    {{- if not $existing }}
    items:
      {{- range $name, $_ := $own }}
      - key: {{ printf "%s.%s.yaml" $folder $name }}
        path: {{ printf "%s.yaml" $name }}
      {{- end }}
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Annotations of a pod of the services: (list . COMPONENT-VALUES). */}}
{{- define "qwarden.servicesAnnotations" -}}
{{- $root := index . 0 -}}
{{- with include "qwarden.scrapeAnnotations" (list $root 8080) }}
{{ . }}
{{- end }}
{{- with include "qwarden.policyFiles" $root }}
checksum/policies: {{ sha256sum . }}
{{- end }}
{{- with (index . 1).annotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}
