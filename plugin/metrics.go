package plugin

import (
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"
)

// metrics are what Prometheus can ask for. Their names are BuildKit's, so that
// its dashboards and alerts work.
type metrics struct {
	registry *prometheus.Registry
	builds   *prometheus.CounterVec
	steps    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		builds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "buildkit_builds_total",
			Help: "Builds that ended, by status and, where they failed, by code of gRPC.",
		}, []string{"status", "error_code"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "buildkit_builds_steps_total",
			Help: "Steps of builds that ended: total, completed and cached; and warnings.",
		}, []string{"kind"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "buildkit_build_duration_seconds",
			Help:                        "How long builds took.",
			Buckets:                     prometheus.ExponentialBuckets(0.1, 2, 14),
			NativeHistogramBucketFactor: 1.1,
		}, []string{"status"}),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.builds, m.steps, m.duration,
	)
	return m
}

// ended counts a build.
func (m *metrics) ended(rec *controlapi.BuildHistoryRecord) {
	status, code := "success", ""
	if rec.Error != nil {
		status, code = "failure", codes.Code(rec.Error.Code).String()
	}
	m.builds.WithLabelValues(status, code).Inc()
	m.steps.WithLabelValues("total").Add(float64(rec.NumTotalSteps))
	m.steps.WithLabelValues("completed").Add(float64(rec.NumCompletedSteps))
	m.steps.WithLabelValues("cached").Add(float64(rec.NumCachedSteps))
	m.steps.WithLabelValues("warnings").Add(float64(rec.NumWarnings))
	m.duration.WithLabelValues(status).Observe(rec.CompletedAt.AsTime().Sub(rec.CreatedAt.AsTime()).Seconds())
}
