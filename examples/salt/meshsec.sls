# Installs mesh.toml and its secret and applies the mesh, after the file has passed `validate`.
# With test=True it says that it would apply, and does nothing.

/etc/meshsec/mesh.key:
  file.managed:
    - contents_pillar: meshsec:mesh_key
    - mode: "0600"
    - makedirs: True
    - show_changes: False

# The file is checked in a place of its own: a path in it has to be absolute, as
# mesh_key = { file = "/etc/meshsec/mesh.key" }
/etc/meshsec/mesh.toml:
  file.managed:
    - source: salt://meshsec/mesh.toml
    - mode: "0644"
    - check_cmd: /usr/local/bin/meshsec validate -c
    - require:
      - file: /etc/meshsec/mesh.key

# At each run that finds a difference: status 2 of plan.
meshsec apply:
  cmd.run:
    - name: /usr/local/bin/meshsec apply --auto-approve
    - unless: /usr/local/bin/meshsec plan --detailed-exitcode
    - require:
      - file: /etc/meshsec/mesh.toml

# The unit of examples/systemd that applies at boot, and the timer.
meshsec.service:
  service.enabled:
    - require:
      - cmd: meshsec apply

meshsec.timer:
  service.running:
    - enable: True
    - require:
      - cmd: meshsec apply
