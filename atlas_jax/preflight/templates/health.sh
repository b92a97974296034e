for port in "$teacher_port" "$student_port"; do
  until curl --fail --silent --noproxy '*' --max-time 5 --output /dev/null \
    "http://$server:$port/health"; do
    {% if kind == "slurm" %}
    if ! kill -0 "$servers" 2>/dev/null; then
      echo "error: the servers ended before they were up: see" \
        "$logs/servers.log, $WORKDIR/logs/teacher.log and student.log" >&2
      exit 1
    fi
    {% endif %}
    if ((SECONDS > {{ health_s }})); then
      echo "error: no answer from http://$server:$port/health in" \
        "{{ health_s }} s: is that port open between the machines?" >&2
      exit 1
    fi
    sleep 1
  done
  echo "http://$server:$port is up after $SECONDS s"
done
