# Installs mesh.toml and its secret and applies the mesh, after the file has passed `validate`.
#
#   class { 'meshsec':
#     content  => file('profile/mesh.toml'),
#     mesh_key => lookup('meshsec::mesh_key'),   # eyaml, converted to Sensitive
#   }
class meshsec (
  String            $content,
  Sensitive[String] $mesh_key,
  String            $program = '/usr/local/bin/meshsec',
) {
  file { '/etc/meshsec':
    ensure => directory,
    mode   => '0755',
  }

  file { '/etc/meshsec/mesh.key':
    mode      => '0600',
    content   => $mesh_key,
    show_diff => false,
  }

  # The file is checked in a place of its own: a path in it has to be absolute, as
  # mesh_key = { file = "/etc/meshsec/mesh.key" }
  file { '/etc/meshsec/mesh.toml':
    mode         => '0644',
    content      => $content,
    validate_cmd => "${program} -c % validate",
    require      => File['/etc/meshsec/mesh.key'],
  }

  # At each run that finds a difference: status 2 of plan. With --noop it says so, and does nothing.
  exec { 'meshsec apply':
    command => "${program} apply --auto-approve",
    unless  => "${program} plan --detailed-exitcode",
    require => File['/etc/meshsec/mesh.toml'],
  }

  # The units of examples/systemd: at boot, and every 15 minutes.
  service { 'meshsec.service':
    enable  => true,
    require => Exec['meshsec apply'],
  }

  service { 'meshsec.timer':
    ensure  => running,
    enable  => true,
    require => Exec['meshsec apply'],
  }
}
